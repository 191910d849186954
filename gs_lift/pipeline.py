"""The line from a scene folder to scores: each stage skips what is done, resumes what was begun."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from gs_lift import __version__, ply
from gs_lift.block_runs import (
    block_of,
    block_runs,
    each_block,
    in_blocks,
    is_block,
    is_lifted,
    make_blocks,
    take_settings,
)
from gs_lift.blocks import Block, join, together
from gs_lift.checkpoint import Checkpoints
from gs_lift.clustering import OF_THE_TREE, cluster, detections, read_constraints, saved_tree
from gs_lift.clustering.constraints import Written
from gs_lift.config import Config, config_hash, differences
from gs_lift.datasets import load_scene
from gs_lift.distributed import from_rank_zero, rank_zero, world
from gs_lift.edits import Edits, read_edits, splat_digest
from gs_lift.errors import ConfigError, RunError, SplatError
from gs_lift.evaluation import Areas, Scores, evaluate_by, panoptic, views_of_instances
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.fitting import fit
from gs_lift.gaussians import Gaussians
from gs_lift.lanes import check_batches
from gs_lift.lifting import lift
from gs_lift.lifting.views import check_segments, check_things
from gs_lift.points import initial_points
from gs_lift.progress import OnStep
from gs_lift.protocols import RELEASED
from gs_lift.recipe import Recipe
from gs_lift.report import Strip, contact_sheet
from gs_lift.run import BLOCKS, STAGES, Run, sha256, start_run
from gs_lift.scene import Scene
from gs_lift.segmentation import Embeddings, Evidence, Instances, Parts
from gs_lift.splats import find_splat, load_splat
from gs_lift.splats.frames import check_frame
from gs_lift.threads import kernel_threads, torch_on_one_thread

log = logging.getLogger(__name__)

OWN = ("run.json", "config.yaml", "metrics.jsonl", "scores.json")
"""Files of a run besides the stages' results and the edits."""

LOG_EVERY = 20
"""Steps between two lines of metrics.jsonl."""


LiftBlocks = Callable[[Sequence[Run]], None]
"""Lifts the runs of blocks, in any order."""


@runtime_checkable
class Reporter(Protocol):
    """What the pipeline tells whoever started it."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[OnStep]:
        """A stage of `total` steps begins; the OnStep may raise KeyboardInterrupt to stop it cleanly."""
        ...

    def say(self, text: str) -> None:
        """One line for the user."""
        ...

    def panel(self, title: str, rows: Mapping[str, str]) -> None:
        """What is about to be done: settings by name."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Whoever wants to see a scene grow while it is fitted."""

    def begin(self, scene: Scene) -> None: ...

    def __call__(self, step: int, gaussians: Callable[[], Gaussians]) -> None:
        """After each step; see `fit`."""
        ...


class SilentReporter:
    """Tells nobody."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[OnStep]:
        yield lambda step, figures: None

    def say(self, text: str) -> None:
        log.info(text)

    def panel(self, title: str, rows: Mapping[str, str]) -> None:
        log.info("%s: %s", title, rows)


def fit_run(
    scene_path: Path,
    config: Config,
    *,
    folder: Path | None = None,
    splat: Path | None = None,
    overwrite: bool = False,
    resume: bool = True,
    reporter: Reporter | None = None,
    watcher: Watcher | None = None,
    lift_blocks: LiftBlocks | None = None,
) -> Run:
    """Fit a scene (or take `splat`), lift its segments, and leave both in the run folder, `runs/<scene>` by default.

    A scene of more than `blocks.gaussians` Gaussians is lifted in blocks: one after the other, or by `lift_blocks`.

    Inside `distributed.joined` all processes call it alike and share the work. The first one alone has a run folder and
    writes; the scene has to be readable by all.

    Raises SceneError, SplatError, ConfigError or RunError before any old result is touched; later WorldError, where
    processes lose each other: the same call goes on.
    """
    reporter = reporter or SilentReporter()
    config = config.resolved()
    check_batches(**({} if splat else {"fit": config.fit.batch}), lift=config.lift.batch)
    scene = load_scene(scene_path, config.data)
    folder = folder or Path("runs") / scene.name
    if is_block(Run(folder)) and (splat is not None or differences(Run(folder).config, config)):
        raise RunError(
            f"{folder}: is a block, with the settings of its run; change those of {block_of(Run(folder))[0].folder}"
        )
    if not rank_zero():
        _help(scene, config, reporter)
        return Run(folder)
    with reporter.stage("check", len(scene.train)) as on_view:
        segments = check_segments(scene, on_view)
    splat = find_splat(splat) if splat else None
    given = _given_splat(splat, scene, config) if splat else None
    run = start_run(
        folder,
        scene.name,
        scene_path.resolve(),
        splat.resolve() if splat else None,
        config,
        segments=segments,
        overwrite=overwrite,
        resume=resume,
    )
    reporter.panel(scene.name, _settings(run, scene, config))
    if not any(view.segments for view in scene.train):
        reporter.say(
            f"{scene.name}: no 2D segments yet: the splat is made, objects have to wait (see `gslift doctor`)"
        )
    if given is not None:
        if not run.done("fit"):
            ply.write_splat(run.result("fit"), given)
        from_rank_zero(None)
    else:
        _fit_stage(run, scene, config, reporter, watcher)
    _lift_stage(run, scene, config, reporter, lift_blocks)
    return run


def _help(scene: Scene, config: Config, reporter: Reporter) -> None:
    """What the processes after the first do: they take part in what it has to do, and write nothing.

    For each stage they get what it starts from, or None where there is nothing to do.
    """
    start: tuple[torch.Tensor, torch.Tensor] | None = from_rank_zero(None)
    if start is not None:
        points, colors = start
        with reporter.stage("fit", config.fit.steps) as on_step:
            fit(
                replace(scene, points=points, colors=colors),
                config.fit,
                backend=config.backend,
                device=config.device,
                seed=config.seed,
                memory_budget_gb=config.memory_budget_gb,
                on_step=on_step,
            )
    gaussians: Gaussians | None = from_rank_zero(None)
    if gaussians is not None:
        with reporter.stage("lift", config.lift.steps) as on_step:
            lift(
                scene,
                gaussians.to(config.device),
                config.lift,
                backend=config.backend,
                seed=config.seed,
                memory_budget_gb=config.memory_budget_gb,
                on_step=on_step,
                on_view=_before(on_step),
            )


def _before(on_step: OnStep) -> OnStep:
    """Shows the views that lifting looks at before its first step."""
    return lambda seen, figures: on_step(0, {"views": float(seen), **figures})


def _settings(run: Run, scene: Scene, config: Config) -> dict[str, str]:
    """What a user wants to see before minutes are spent on it."""
    camera = scene.train[0].camera
    segments = sum(view.segments is not None for view in scene.train)
    things = [scene.classes.names[one] for one in scene.classes.things]
    return {
        "scene": str(run.scene),
        "views": f"{len(scene.train)} to learn from ({segments} with segments), {len(scene.test)} to be judged on; "
        f"{camera.width} x {camera.height} pixels",
        "classes": f"{len(scene.classes)}, {len(things)} of things: {', '.join(things[:6])}"
        + (" ..." if len(things) > 6 else ""),
        "splat": str(run.record["splat"] or f"fitted in {config.fit.steps} steps, {config.fit.strategy}"),
        "lifting": f"{config.lift.method}, {config.lift.steps} steps",
        "backend": f"{config.backend} on {config.device}, {kernel_threads()} threads"
        + (f" in each of {world().size} processes" if world().size > 1 else ""),
        "seed": str(config.seed),
        "run": str(run.folder),
    }


def _given_splat(path: Path, scene: Scene, config: Config) -> Gaussians:
    gaussians = load_splat(path, applied_transform=scene.applied_transform)
    if config.data.check_splat:
        try:
            check_frame(scene, gaussians.to(config.device), backend=config.backend)
        except SplatError as error:
            raise SplatError(f"{path}: {error}") from None
    return gaussians


@contextmanager
def _timed(run: Run, stage: str, total: int | None, reporter: Reporter) -> Iterator[OnStep]:
    """The OnStep of a stage: shown, logged, and its seconds kept whether it ends or is stopped."""
    start = time.perf_counter()
    with reporter.stage(stage, total) as shown:

        def on_step(step: int, figures: dict[str, float]) -> None:
            if step and (step % LOG_EVERY == 0 or step == total):
                run.log(stage, step, figures)
            shown(step, figures)

        try:
            yield on_step
        finally:
            run.add_seconds(stage, time.perf_counter() - start)
            run.note_memory(stage)


def _fit_stage(run: Run, scene: Scene, config: Config, reporter: Reporter, watcher: Watcher | None) -> None:
    if run.done("fit"):
        reporter.say(f"fit: done before ({run.result('fit')})")
        from_rank_zero(None)
        return
    points, colors = from_rank_zero(_starting_points(run, scene, config, reporter))
    scene = replace(scene, points=points, colors=colors)
    if watcher is not None:
        watcher.begin(scene)
    with _timed(run, "fit", config.fit.steps, reporter) as on_step:
        checkpoints = Checkpoints(run.checkpoints("fit"), config.checkpoint_every)
        gaussians = fit(
            scene,
            config.fit,
            backend=config.backend,
            device=config.device,
            seed=config.seed,
            memory_budget_gb=config.memory_budget_gb,
            checkpoints=checkpoints,
            on_step=on_step,
            on_gaussians=watcher,
        )
        ply.write_splat(run.result("fit"), gaussians.detach().to("cpu"))
        checkpoints.clear()


def _starting_points(
    run: Run, scene: Scene, config: Config, reporter: Reporter
) -> tuple[torch.Tensor, torch.Tensor]:
    path = run.result("points")
    if not path.exists():
        with _timed(run, "points", None, reporter) as on_step:
            points, colors = initial_points(
                scene, config.data.init, seed=config.seed, count=config.data.init_points, on_step=on_step
            )
            write_atomic(path, lambda file: np.savez(file, points=points.numpy(), colors=colors.numpy()))
    with _readable(path), np.load(path, allow_pickle=False) as saved:
        return torch.from_numpy(saved["points"]), torch.from_numpy(saved["colors"])


def _lift_stage(
    run: Run, scene: Scene, config: Config, reporter: Reporter, lift_blocks: LiftBlocks | None = None
) -> None:
    take_settings(run, config)
    if is_lifted(run):
        reporter.say(f"lift: done before ({run.result('lift')})")
        from_rank_zero(None)
        return
    rows = None
    whole = run
    if is_block(run):
        whole, block = block_of(run)
        rows = block.rows
        scene = replace(scene, train=tuple(scene.train[view] for view in block.views.tolist()))
    # From the file, not from memory: a resumed run and an uninterrupted one start from the same numbers.
    gaussians = ply.read_splat(whole.result("fit"), sh_degree=0)  # colours have no part in it
    count = len(gaussians)
    if 0 < config.blocks.gaussians < count:
        del gaussians  # each block reads them again
        return _lift_in_blocks(run, scene, count, config, reporter, lift_blocks)
    gaussians = from_rank_zero(gaussians).to(config.device)
    with _timed(run, "lift", config.lift.steps, reporter) as on_step:
        checkpoints = Checkpoints(run.checkpoints("lift"), config.checkpoint_every)
        embeddings = lift(
            scene,
            gaussians,
            config.lift,
            backend=config.backend,
            rows=rows,
            seed=config.seed,
            memory_budget_gb=config.memory_budget_gb,
            checkpoints=checkpoints,
            on_step=on_step,
            on_view=_before(on_step),
        )
        _write_embeddings(run, embeddings)
        checkpoints.clear()


def _write_embeddings(run: Run, embeddings: Embeddings, *, in_blocks: bool = False) -> None:
    """in_blocks: they are those of several blocks, which are not to be compared."""
    run.write_record(in_blocks=in_blocks)
    content = vars(embeddings) | {"evidence": vars(embeddings.evidence) if embeddings.evidence else None}
    write_atomic(run.result("lift"), lambda file: torch.save(content, file))


def _lift_in_blocks(
    run: Run,
    scene: Scene,
    count: int,
    config: Config,
    reporter: Reporter,
    lift_blocks: LiftBlocks | None,
) -> None:
    """Cut the scene, of so many Gaussians, lift its blocks, and put together what they have learnt."""
    if world().size > 1:
        raise ConfigError(
            f"{count} Gaussians are lifted in blocks, each by one process (gslift fit --jobs or --engine ray); for "
            "torchrun to share them wanted --set blocks.gaussians=0"
        )
    check_things(scene)
    with reporter.stage("split", len(scene.train)) as on_view:
        made = make_blocks(run, scene, config, on_view=on_view)
    blocks, runs = [block for block, _ in made], [each for _, each in made]
    sizes = ", ".join(f"{len(block.rows):,}" for block in blocks[:8]) + (", ..." if len(blocks) > 8 else "")
    reporter.say(f"lift: {count:,} Gaussians in {len(blocks)} blocks of {sizes}")
    with _timed(run, "lift", len(blocks), SilentReporter()):
        if lift_blocks is not None:
            lift_blocks(runs)
        for number, (block, each) in enumerate(made, start=1):
            if not each.done("lift"):
                reporter.say(f"block {number} of {len(blocks)}: {len(block.views)} views")
                _lift_stage(each, scene, each.config, reporter)
        found = (_of_block(read_embeddings(each), block, each) for block, each in made)
        _write_embeddings(run, together(blocks, found, count), in_blocks=True)


def _of_block(embeddings: Embeddings, block: Block, run: Run) -> Embeddings:
    if len(embeddings) != len(block.rows):
        raise RunError(
            f"{run.result('lift')}: has {len(embeddings)} Gaussians, the block {len(block.rows)}; remove it, "
            "and run the same command again"
        )
    return embeddings


def read_gaussians(run: Run) -> Gaussians:
    """The Gaussians of a run, on its device. Raises RunError if they are not fitted yet."""
    _require(run, "fit")
    return ply.read_splat(run.result("fit")).to(run.config.device)


def read_embeddings(run: Run) -> Embeddings:
    """The embeddings of a run. Raises RunError if nothing was lifted yet."""
    _require(run, "lift")
    with _readable(run.result("lift")):
        saved = torch.load(run.result("lift"), weights_only=True)
        return Embeddings(
            **saved | {"evidence": Evidence(**saved["evidence"]) if saved.get("evidence") else None}
        )


def read_instances(run: Run) -> Instances:
    """The instances of a run, as it was cut last. Raises RunError if it was not segmented yet."""
    return read_segmentation(run)[0]


def read_segmentation(run: Run) -> tuple[Instances, Recipe]:
    """The instances of a run, and what their cut was made by. Raises RunError if it was not segmented yet."""
    _require(run, "segment")
    with _readable(run.result("segment")):
        saved = torch.load(run.result("segment"), weights_only=True)
        parts = saved["parts"]
        instances = Instances(**saved["instances"], parts=None if parts is None else Parts(**parts))
        if instances.tree:  # none where blocks were joined
            saved_tree(instances.tree)  # a file of another version may lack something
        return instances, Recipe.from_json(json.loads(saved["cut"]))


def write_segmentation(run: Run, instances: Instances, recipe: Recipe) -> None:
    """Make this the run's last cut; scores of another one are removed."""
    content = {name: value for name, value in vars(instances).items() if name != "parts"}
    parts = None if instances.parts is None else vars(instances.parts)
    saved = {"instances": content, "parts": parts, "cut": json.dumps(recipe.to_json())}
    (run.folder / "scores.json").unlink(missing_ok=True)  # first: they are of another cut
    write_atomic(run.result("segment"), lambda file: torch.save(saved, file))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged result raises inside the block becomes a RunError."""
    try:
        yield
    except Exception as error:  # a torn or foreign file: any of a dozen types
        reason = " ".join(str(error).split())[:100]
        raise RunError(f"{path}: not readable ({reason}); remove it and run the same command again") from None


def _require(run: Run, stage: str) -> None:
    if not run.done(stage):
        command = f"segment {run.folder} --out labels.ply" if stage == "segment" else f"fit {run.scene}"
        raise RunError(f"{run.folder}: {stage} is not finished; run `gslift {command}`")


def read_scene(run: Run) -> Scene:
    """The scene that a run was made from, read anew."""
    return load_scene(run.scene, run.config.data)


@torch_on_one_thread()
def segment_run(
    run: Run,
    *,
    changes: Mapping[str, Any] | None = None,
    constraints: Path | Written | None = None,
    reporter: Reporter | None = None,
) -> Instances:
    """Cluster the embeddings of a run into instances, once, and cut their tree again where another cut is wanted.

    changes: fields of ClusterConfig that differ from the run's, none of those OF_THE_TREE; constraints: a file, see
    clustering.constraints, or what one says. With neither given (None), the last cut stays; with empty changes it is
    that of the run's config. Raises ConfigError or ConstraintError before the last cut is touched.
    """
    reporter = reporter or SilentReporter()
    config = run.config
    if fixed := sorted(set(changes or {}) & set(OF_THE_TREE)):
        raise ConfigError(f"cluster.{fixed[0]}: another cut cannot change it; use --set and --overwrite")
    if in_blocks(run):
        return _segment_blocks(run, changes, constraints, reporter)
    if run.record.get("in_blocks"):
        raise RunError(
            f"{run.folder}: was lifted in blocks, which are gone; run `gslift fit {run.scene} --run {run.folder}` again"
        )
    written = read_constraints(constraints) if isinstance(constraints, Path) else constraints
    if not run.done("segment"):
        gaussians, embeddings = read_gaussians(run), read_embeddings(run)
        classes = read_scene(run).classes
        with _timed(run, "segment", None, reporter):
            instances = cluster(embeddings, gaussians, classes, config.cluster, seed=config.seed)
            write_segmentation(run, instances, Recipe())
        if (recall := float(instances.tree["recall"])) >= 0:
            reporter.say(f"segment: {recall:.1%} of the nearest neighbours were found")
    instances, last = read_segmentation(run)
    recipe = last if changes is None and written is None else Recipe(dict(changes or {}), written)
    if not run.edits.exists() and not last.edits and recipe.same_cut(last):
        return instances
    gaussians = read_gaussians(run)
    recipe = replace(recipe, edits=read_run_edits(run, gaussians))
    if recipe.same_cut(last):
        return instances
    embeddings, classes = read_embeddings(run), read_scene(run).classes
    start = time.perf_counter()
    instances = recipe.instances(instances, embeddings, gaussians, classes, config.cluster)
    log.info("cut again in %.2f s", time.perf_counter() - start)
    write_segmentation(run, instances, recipe)
    return instances


def _segment_blocks(
    run: Run, changes: Mapping[str, Any] | None, constraints: Path | Written | None, reporter: Reporter
) -> Instances:
    """Each block, and then their instances joined."""
    if not is_lifted(run):
        raise RunError(
            f"{run.folder}: not all blocks are lifted; run `gslift fit {run.scene} --run {run.folder}` again"
        )
    if constraints is not None:
        raise RunError(
            f"{constraints}: {run.name} was lifted in blocks, which number their objects each in its own way; wanted "
            f"constraints for a block: gslift segment {block_runs(run)[0].folder} --constraints ..."
        )
    pairs = each_block(run)
    last = read_segmentation(run)[1] if run.done("segment") else Recipe()
    # What was asked of a block alone stays, unless the whole is cut in another way, or was.
    asked = changes if changes or (changes is not None and last.changes) else None
    for block, each in pairs:
        reporter.say(f"block {each.folder.name}: {len(block.rows):,} Gaussians")
        own = read_segmentation(each)[1].written if asked is not None and each.done("segment") else None
        segment_run(each, changes=asked, constraints=own, reporter=reporter)
    made = max(each.result("segment").stat().st_mtime_ns for _, each in pairs)
    if run.done("segment") and run.result("segment").stat().st_mtime_ns >= made:
        return read_instances(run)
    with _timed(run, "segment", None, SilentReporter()):
        blocks = [block for block, _ in pairs]
        found = [replace(read_instances(each), tree={}) for _, each in pairs]
        if any(len(block.rows) != len(one.labels) for block, one in zip(blocks, found, strict=True)):
            raise RunError(
                f"{run.folder}: a block's instances are of other Gaussians; remove {run.folder}/blocks/*/instances.pt"
            )
        instances = join(blocks, found, sum(int(block.core.sum()) for block in blocks))
        write_segmentation(run, instances, last if changes is None else Recipe(dict(changes)))
    return instances


def read_run_edits(run: Run, gaussians: Gaussians) -> Edits:
    """The edits of a run. Raises ConstraintError where they are damaged, or of another splat."""
    return read_edits(run.edits, len(gaussians), splat_digest(gaussians) if run.edits.exists() else None)


def output_paths(run: Run, out: Path) -> list[Path]:
    """What `write_outputs` writes. Raises RunError where that would replace a file of the run, or its splat."""
    paths = [
        out,
        out.with_suffix(".json"),
        out.with_name("instances.ply" if out.stem == "labels" else f"{out.stem}_instances.ply"),
    ]
    own = {run.result(stage).resolve() for stage in STAGES}
    own |= {(run.folder / name).resolve() for name in OWN}
    for path in paths:
        if (run.folder / BLOCKS).resolve() in path.resolve().parents:
            raise RunError(
                f"--out {out}: {path} would lie among the blocks of the run; choose another folder"
            )
        kept = path.resolve().parent == run.folder.resolve() and path.name.startswith("edits.")
        if kept or path.resolve() in own or str(path.resolve()) == run.record.get("splat"):
            raise RunError(
                f"--out {out}: would replace {path}, which this run was made from; choose another name"
            )
    return paths


@torch_on_one_thread()
def write_outputs(run: Run, out: Path, *, reporter: Reporter | None = None) -> list[Path]:
    """labels.ply at `out` with labels.json and instances.ply beside it; the paths that were written.

    The run remembers `out`: edits write it again. Raises RunError where one of them would replace a file of the run, or
    the splat that it was given.
    """
    output_paths(run, out)
    instances, recipe = read_segmentation(run)
    gaussians = read_gaussians(run)
    recipe = replace(recipe, edits=read_run_edits(run, gaussians))  # names may have changed since
    scene, reporter = read_scene(run), reporter or SilentReporter()
    with reporter.stage("areas", len(scene.train)) as on_view:
        return write_cut(run, out, gaussians, read_embeddings(run), scene, instances, recipe, on_view=on_view)


def write_cut(
    run: Run,
    out: Path,
    gaussians: Gaussians,
    embeddings: Embeddings,
    scene: Scene,
    instances: Instances,
    recipe: Recipe,
    *,
    areas: Areas | None = None,
    on_view: OnStep | None = None,
) -> list[Path]:
    """What `write_outputs` writes, of what is in memory. areas: of the training views.

    on_view: called with (training views looked at, {}) before anything is written; what it raises stops that.
    """
    _, described, painted = output_paths(run, out)
    comments = [
        f"gs_lift {__version__}",
        f"config {config_hash(run.config)}",
        f"splat sha256 {run.record.get('splat_sha256') or sha256(run.result('fit'))}",
        "frame world: the frame of the scene's camera poses",
    ]
    areas = areas or Areas(scene.train, gaussians, backend=run.config.backend)
    views = views_of_instances(scene.train, areas.of(instances, on_view))
    found = detections(instances, embeddings.evidence) if embeddings.evidence else None
    ply.write_labels(out, gaussians, instances, comments=comments)
    described_objects = ply.labels_json(
        gaussians,
        instances,
        scene.classes,
        embeddings,
        views=views,
        detections=found,
        names=recipe.edits.names(instances.labels),
        cut=recipe.described,
    )
    write_text_atomic(described, described_objects)
    ply.write_instances(painted, gaussians, instances, comments=comments)
    run.remember_labels(out)
    return [out, described, painted]


def evaluate_run(
    run: Run, protocols: Sequence[str] = (RELEASED,), *, reporter: Reporter | None = None
) -> dict[str, Scores]:
    """Score a run on its scene's test views by each protocol, segmenting it first if need be; kept in scores.json."""
    reporter = reporter or SilentReporter()
    config, scene = run.config, read_scene(run)
    if is_block(run):
        raise RunError(
            f"{run.folder}: a block has no score; wanted the run that it is of, {block_of(run)[0].folder}"
        )
    if not scene.test:
        raise RunError(f"{run.scene}: no test views to score on")
    gaussians, embeddings = read_gaussians(run), read_embeddings(run)
    instances = segment_run(run, reporter=reporter)
    with _timed(run, "eval", len(scene.test), reporter) as on_step:
        found = evaluate_by(
            protocols, scene, gaussians, embeddings, instances, backend=config.backend, on_step=on_step
        )
    scores = dict(zip(protocols, found, strict=True))
    content = {name: asdict(of_protocol) for name, of_protocol in scores.items()}
    write_text_atomic(run.folder / "scores.json", json.dumps(content, indent=1) + "\n")
    return scores


def scored_run(run: Run, protocols: Sequence[str]) -> dict[str, Scores] | None:
    """What `evaluate_run` has kept of the run's last cut by those protocols; None if it has not."""
    try:
        content = json.loads((run.folder / "scores.json").read_text())
        return {name: Scores.from_json(content[name]) for name in protocols}
    except (OSError, ValueError, TypeError, KeyError):  # not there, or of another version
        return None


def write_contact_sheet(run: Run, path: Path, *, rows: int = 6) -> Path:
    """A PNG of test views, side by side: image | truth | segments | our instances."""
    scene, config = read_scene(run), run.config
    gaussians, embeddings, instances = read_gaussians(run), read_embeddings(run), read_instances(run)
    strips = []
    # Test views have no segments to show, so training views stand between them.
    pairs = zip(scene.test, scene.train, strict=False)
    kinds = [one for test, train in pairs for one in ((test, "test"), (train, "training"))]
    for view, kind in kinds[:rows]:
        found = panoptic(view.camera, gaussians, embeddings, instances, scene.classes, backend=config.backend)
        strips.append(
            Strip(
                name=f"{view.name} ({kind})",
                image=view.image(),
                truth=view.truth().instance if view.truth else None,
                segments=view.segments().instance if view.segments and kind == "training" else None,
                instances=found.instance,
            )
        )
    contact_sheet(path, strips)
    return path
