"""The command `gslift`: parses, calls the pipeline, prints. Heavy modules load inside the commands."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

# Before anything loads OpenMP: waiting threads that spin for long take the core from the one that works. A fitting step
# took 10x the CPU seconds on a busy machine; with a short spin it does not, at 10 % more time on an idle one.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import typer

from gs_lift.errors import ConfigError, GsLiftError, WorldError

if TYPE_CHECKING:
    from gs_lift.run import Run
    from gs_lift.terminal import TerminalReporter
    from gs_lift.viewer import Growth

app = typer.Typer(
    name="gslift",
    help="From posed images and noisy 2D segments to 3D objects: Contrastive Lift on 3D Gaussians.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; see `gslift config`.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")]
RunFolder = Annotated[
    Path | None, typer.Argument(help="Run folder; the latest one if left out.", show_default=False)
]
RunOrLabels = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN_OR_LABELS",
        help="Run folder or labels.ply; the latest run if left out.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Take new settings; redo what they touch.")]
NoResume = Annotated[bool, typer.Option("--no-resume", help="Start every stage again.")]
Jobs = Annotated[
    int | None, typer.Option(help="Scenes at a time; one here, what fits on a cluster, if left out.")
]
EngineName = Annotated[str, typer.Option("--engine", help="local: processes here; ray: a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; one of this machine's own if left out.")
]
Cpus = Annotated[int | None, typer.Option(help="Threads per scene; cores / jobs if left out.")]
Gpus = Annotated[float, typer.Option(help="CUDA devices per scene; 0.5: two scenes share one.")]
Retries = Annotated[int, typer.Option(help="How often a failed scene is tried again.")]

RUNS = Path("runs")

WIDE = 200
"""Letters of a line of a table that goes into a file or a pipe."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the room and the results go.")] = Path(
        "gslift_demo"
    ),
    objects: Annotated[int, typer.Option(help="Objects in the room.")] = 25,
    seed: Annotated[int, typer.Option(help="Room and training seed.")] = 0,
) -> None:
    """Make a messy room, find its objects again, and show how well: the whole line in minutes on a CPU."""
    from gs_lift.config import load_config
    from gs_lift.pipeline import evaluate_run, fit_run, segment_run, write_contact_sheet, write_outputs
    from gs_lift.report_page import write_report

    reporter = _reporter()
    room = folder / "room"
    _synthesize(room, objects, 60, 256, seed, "moderate", reporter)
    run = fit_run(room, load_config(None, [f"seed={seed}"]), folder=folder / "run", reporter=reporter)
    segment_run(run, reporter=reporter)
    written = write_outputs(run, folder / "labels.ply", reporter=reporter)
    scores = evaluate_run(run, reporter=reporter)
    sheet = write_contact_sheet(run, folder / "contact_sheet.png")
    page = write_report(run, folder / "report.html", reporter=reporter)
    _print_stages(run, reporter)
    _print_scores(run, scores, reporter)
    for path in [*written, sheet, page]:
        reporter.say(f"wrote {path}")
    reporter.say(
        f"look at {page}, or at the objects themselves: gslift view {run.folder} (needs '.[viewer]')"
    )


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Scene folder to write.")],
    objects: Annotated[int, typer.Option(help="Objects in the room.")] = 25,
    views: Annotated[int, typer.Option(help="Views; the last fifth is for testing.")] = 60,
    size: Annotated[int, typer.Option(help="Width and height of a view, pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Decides the room, the cameras and the errors.")] = 0,
    noise: Annotated[
        str, typer.Option(help="Errors of the segments: none, easy, moderate or hard.")
    ] = "moderate",
    layout: Annotated[
        str,
        typer.Option(
            help="messy_rooms: a heap; panoptic_lifting: furniture, 22 classes, every sixth view for testing."
        ),
    ] = "messy_rooms",
) -> None:
    """Write a ray-traced room with exact truth and segments that err like a real segmenter's."""
    reporter = _reporter()
    _synthesize(folder, objects, views, size, seed, noise, reporter, layout)
    reporter.say(f"wrote {folder}; next: gslift fit {folder}")


@app.command()
def fit(
    scene: Annotated[Path, typer.Argument(help="Scene folder.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; runs/<scene> if left out.")] = None,
    splat: Annotated[
        Path | None,
        typer.Option(help="A splat to lift onto, instead of fitting: PLY, checkpoint, .spz, .splat ..."),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(help="Folder of the 2D segments; the scene's own, or its masks/, if left out."),
    ] = None,
    no_resume: NoResume = False,
    overwrite: Overwrite = False,
    view: Annotated[bool, typer.Option("--view", help="Serve the scene as it grows; needs viser.")] = False,
    port: Annotated[int, typer.Option(help="Port of --view, on this machine only.")] = 8080,
    jobs: Annotated[
        int | None, typer.Option(help="Blocks of a large scene at a time; one after the other if left out.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Of blocks; local: processes here, ray: a Ray cluster.")
    ] = "local",
    address: Address = None,
    cpus: Annotated[int | None, typer.Option(help="Threads per block; cores / jobs if left out.")] = None,
    gpus: Annotated[float, typer.Option(help="CUDA devices per block.")] = 0,
) -> None:
    """Fit a scene as 3D Gaussians and lift its 2D segments onto them. Processes of torchrun share the work."""
    from gs_lift.batch import BatchConfig, lift_blocks_by
    from gs_lift.config import load_config
    from gs_lift.distributed import joined
    from gs_lift.pipeline import fit_run

    reporter = _reporter(shared=True)
    how = BatchConfig(engine, jobs, cpus, gpus, address)
    named = [f"data.segments={segments.absolute()}"] if segments is not None else []
    settings = load_config(config, [*named, *(overrides or [])])
    growth = _growth(port, reporter) if view and _rank() == 0 else None
    try:
        with joined(settings.resolved().device):
            done = fit_run(
                scene,
                settings,
                folder=run,
                splat=splat,
                overwrite=overwrite,
                resume=not no_resume,
                reporter=reporter,
                watcher=growth,
                lift_blocks=None if how == BatchConfig() else lift_blocks_by(how, reporter),
            )
    finally:
        if growth is not None:
            growth.close()
    if _rank() > 0:
        return
    _print_stages(done, reporter)
    reporter.say(f"wrote {done.folder}; next: gslift segment --out labels.ply, or gslift view")


@app.command()
def batch(
    scenes: Annotated[
        Path,
        typer.Argument(metavar="SCENES", help="File with a scene folder a line, or a folder of scenes."),
    ],
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="Where the run folders go, one a scene.")] = RUNS,
    jobs: Jobs = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = 0,
    retries: Retries = 1,
    overwrite: Overwrite = False,
) -> None:
    """Fit, lift, segment and score many scenes; skips what is done, tries again what fails; exit code 1 if any did."""
    from gs_lift.batch import BatchConfig, batch_tasks, list_scenes, run_batch
    from gs_lift.config import load_config
    from gs_lift.report import batch_table

    reporter = _reporter()
    how = BatchConfig(engine, jobs, cpus, gpus, address, retries)
    tasks = batch_tasks(list_scenes(scenes), runs, load_config(config, overrides), overwrite=overwrite)
    outcomes = run_batch(tasks, how, reporter=reporter)
    rows = [
        (one.task.name, done.seconds, done.objects, done.pq_scene, "")
        if (done := one.result)
        else (one.task.name, None, None, None, one.reason or "")
        for one in outcomes
    ]
    reporter.console.print(batch_table(rows))
    failed = sum(one.result is None for one in outcomes)
    reporter.say(f"{len(outcomes) - failed} of {len(outcomes)} scenes are in {runs}, each with labels.ply")
    if failed:
        raise typer.Exit(1)


@app.command("batch-scene", hidden=True)
def batch_scene(
    scene: Path, folder: Path, config: ConfigFile = None, threads: int = 0, overwrite: Overwrite = False
) -> None:
    """One scene of a batch, in a process of its own."""
    from gs_lift.batch.local import stop_with_parent
    from gs_lift.batch.task import Task, do_scene
    from gs_lift.config import load_config

    stop_with_parent()
    do_scene(Task(scene, folder, load_config(config), threads, overwrite), _reporter())


@app.command()
def segment(
    out: Annotated[Path, typer.Option(help="PLY to write; labels.json and instances.ply go beside it.")],
    run: RunFolder = None,
    min_cluster_size: Annotated[
        float | None, typer.Option(help="Least weight of an object; 1 is a typical Gaussian of a thing.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Objects whose embeddings part below this distance stay one.")
    ] = None,
    granularity: Annotated[
        float | None, typer.Option(help="0 = few large objects, 0.5 = the default, 1 = the finest parts.")
    ] = None,
    constraints: Annotated[
        Path | None, typer.Option(help="JSON file of pairs that must, or must not, be one object.")
    ] = None,
) -> None:
    """Cluster the Gaussians into objects and write them; with options, cut the same tree again."""
    from gs_lift.pipeline import output_paths, read_segmentation, segment_run, write_outputs

    reporter = _reporter()
    _check_ending("--out", out, ".ply")
    chosen = _run(run)
    output_paths(chosen, out)  # refused before anything is cut
    changes: dict[str, float] = {}
    if min_cluster_size is not None:
        changes |= {"min_size": min_cluster_size, "min_share": 0.0}
    if epsilon is not None:
        changes["epsilon"] = epsilon
    if granularity is not None:
        changes["granularity"] = granularity
    instances = segment_run(chosen, changes=changes, constraints=constraints, reporter=reporter)
    edited = f", after {count} edits" if (count := len(read_segmentation(chosen)[1].edits.done)) else ""
    reporter.say(f"{chosen.name}: {len(instances.present)} objects{edited}")
    for path in write_outputs(chosen, out, reporter=reporter):
        reporter.say(f"wrote {path}")


@app.command()
def edit(
    run: RunFolder = None,
    merge: Annotated[list[str] | None, typer.Option(help="A,B[,...]: these objects are one.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="A, or A:G,H at two of its Gaussians: this object is several.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="A=NAME: what you call it; A= for no name.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="A=CLASS, one of things.")] = None,
    delete: Annotated[list[int] | None, typer.Option(help="A: this object is none.")] = None,
    undo: Annotated[
        int,
        typer.Option(
            "--undo",
            count=True,
            show_default=False,
            help="Take the last edit back, before all else; repeats.",
        ),
    ] = 0,
    redo: Annotated[
        int, typer.Option("--redo", count=True, show_default=False, help="Make again what was undone.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="labels.ply to write; the one that was written last if left out.")
    ] = None,
) -> None:
    """Correct a run's objects, for good: every later cut keeps the edits. Without options: what was edited.

    Ids are those of labels.json; with --undo or --redo, which come first, those that these leave. Another cut
    (--granularity ...) numbers its objects anew.
    """
    from gs_lift.editing import Editor
    from gs_lift.pipeline import output_paths

    reporter, chosen = _reporter(), _run(run)
    if out is not None:
        _check_ending("--out", out, ".ply")
        output_paths(chosen, out)
    editor = Editor(chosen, reporter=reporter)
    said = [f"undo: {editor.undo().said}" for _ in range(undo)]
    said += [f"redo: {editor.redo().said}" for _ in range(redo)]
    edits = editor.edits_of(merge or [], split or [], name or [], classes or [], delete or [])
    if edits:
        editor.do(*edits)
    changed = bool(edits or said)
    if changed:
        editor.save()
    said += [editor.outcome(made) for made in edits]
    for line in (
        said if changed else [f"{place:3}  {one.said}" for place, one in enumerate(editor.edits.done, 1)]
    ):
        reporter.say(line)
    reporter.say(f"{chosen.name}: {editor.summary}")
    if out is not None or (changed and chosen.labels is not None):
        for path in editor.write_outputs(out, reporter=reporter):
            reporter.say(f"wrote {path}")
    elif changed:
        reporter.say("no labels.ply was written; gslift segment --out labels.ply makes one")


@app.command()
def view(
    source: RunOrLabels = None,
    host: Annotated[
        str, typer.Option(help="Address to serve at; others than this machine's are open to all.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to serve at.")] = 8080,
    html: Annotated[
        Path | None,
        typer.Option(help="Serve nothing: write one HTML file to send, which any browser opens."),
    ] = None,
) -> None:
    """Look at the objects in a browser, correct them, and take them out; ends with Ctrl-C."""
    if html is not None:
        _write_page(source, html)
        return
    from gs_lift.editing import Editor
    from gs_lift.exports import Labelled
    from gs_lift.viewer import Window, open_server, where_to_look
    from gs_lift.viewer.painting import Shown

    reporter = _reporter()
    if source is not None and source.is_file():
        editor, shown = None, Shown.of_labelled(Labelled.of_file(source))
    else:
        editor = Editor(_run(source), reporter=reporter)
        shown = Shown.of_editor(editor)
    server = open_server(host, port)
    window = Window(server, shown, editor)
    try:
        reporter.wait(*where_to_look(host, port))
    finally:
        window.close()


@app.command()
def report(
    run: RunFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; report.html in the run folder if left out.")
    ] = None,
) -> None:
    """Write a page that shows a run: settings, curves, objects, test views, segments, calibration, time."""
    from gs_lift.report_page import write_report

    reporter, chosen = _reporter(), _run(run)
    out = out or chosen.folder / "report.html"
    _check_ending("--out", out, ".html", ".htm")
    reporter.say(f"wrote {write_report(chosen, out, reporter=reporter)}")


@app.command("eval")
def evaluate(
    run: RunFolder = None,
    dataset: Annotated[str | None, typer.Option(help="Data set by name; with --data.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data set's scenes.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    protocol: Annotated[
        str,
        typer.Option(help="released, as published figures are; strict, its flaws mended. A data set: both."),
    ] = "released",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    jobs: Jobs = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = 0,
    retries: Retries = 1,
) -> None:
    """Score a run, or every scene of a data set, on its test views; exit code 1 if a scene of it failed."""
    from gs_lift.batch import BatchConfig
    from gs_lift.benchmark import DATASETS, dataset_config, evaluate_dataset
    from gs_lift.files import write_text_atomic
    from gs_lift.pipeline import evaluate_run
    from gs_lift.report import scores_json, scores_table

    reporter, how, failed = _reporter(), BatchConfig(engine, jobs, cpus, gpus, address, retries), False
    if dataset is not None or data is not None:
        if run is not None or dataset is None or data is None:
            raise ConfigError("wanted either a RUN, or both --dataset NAME and --data DIR")
        settings = dataset_config(dataset, config, overrides)
        done = evaluate_dataset(dataset, data, RUNS / dataset, config=settings, batch=how, reporter=reporter)
        results, failed, published = done.scored, bool(done.failed), DATASETS[dataset].published
    elif config is not None or overrides:
        raise ConfigError("--config and --set are for a data set; a RUN has the settings that made it")
    elif how != BatchConfig():
        raise ConfigError("--jobs, --engine and the like are for a data set; a RUN is scored here")
    else:
        chosen, published = _run(run), None
        results = [(chosen, evaluate_run(chosen, [protocol], reporter=reporter))]
    rows = [(one.name, scores, one.seconds) for one, scores in results]
    reporter.console.print(scores_table(rows, published))
    if json_file is not None:
        write_text_atomic(json_file, scores_json(rows))
        reporter.say(f"wrote {json_file}")
    if failed:
        raise typer.Exit(1)


@app.command("score")
def score_maps(
    pred: Annotated[Path, typer.Option(help="Folder of id maps by any method, or a labels.ply.")],
    truth: Annotated[Path, typer.Option(help="Folder of id maps, or a scene: the truth of its test views.")],
    protocol: Annotated[str, typer.Option(help="released, strict or both.")] = "both",
    bootstrap: Annotated[int, typer.Option(help="Draws of frames for the 95 % intervals; 0 = none.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Score anybody's maps by the protocols of `gslift eval`, with intervals over frames."""
    from gs_lift.errors import pick
    from gs_lift.files import write_text_atomic
    from gs_lift.protocols import PROTOCOLS
    from gs_lift.report import judged_json, judged_table
    from gs_lift.scoring import score

    protocols = list(PROTOCOLS) if protocol == "both" else [protocol]
    for name in protocols:
        pick(PROTOCOLS, name, "protocol")
    if bootstrap < 0:
        raise ConfigError(f"--bootstrap {bootstrap}: wanted 0 or more")
    reporter = _reporter()
    judged = score(pred, truth, protocols, rounds=bootstrap, seed=seed, reporter=reporter)
    reporter.console.print(judged_table(judged.scores, judged.intervals, judged.frames))
    if json_file is not None:
        write_text_atomic(json_file, judged_json(judged.scores, judged.intervals, judged.frames))
        reporter.say(f"wrote {json_file}")


@app.command()
def render(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_OR_SPLAT",
            help="Run folder, or a splat of any kind; the latest run if left out.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[str, typer.Option(help="orbit, train, test, or a JSON file of cameras.")] = "orbit",
    out: Annotated[Path, typer.Option(help="NAME.mp4, NAME.png (the first frame) or a folder.")] = Path(
        "render.mp4"
    ),
    what: Annotated[str, typer.Option(help="color, depth, instances: one, or several by commas.")] = "color",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels; as the path has it.")] = None,
    frames: Annotated[int | None, typer.Option(help="Of an orbit; or so many of the path's cameras.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of a video.")] = None,
    background: Annotated[str, typer.Option(help="black or white.")] = "black",
    up: Annotated[str | None, typer.Option(help="Of an orbit: x, y, z, -x, -y or -z.")] = None,
) -> None:
    """Render a run or a splat along a camera path: a video, a folder of pictures, or one."""
    from gs_lift.pictures import PictureOptions, parse_size, write_pictures
    from gs_lift.splats import names_splat

    reporter = _reporter()
    options = PictureOptions(
        path=path,
        what=tuple(what.split(",")),
        size=None if size is None else parse_size(size),
        frames=frames,
        fps=fps,
        background=background,
        up=up,
    )
    chosen = source if source is not None and names_splat(source) else _run(source)
    count = write_pictures(chosen, out, options, reporter=reporter)
    reporter.say(f"wrote {out} ({count} frame{'s' if count > 1 else ''})")


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="PLY to write.")],
    source: RunOrLabels = None,
    ids: Annotated[list[int] | None, typer.Option("--id", help="An object; may be repeated.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="All objects of a class.")] = None,
    names: Annotated[list[str] | None, typer.Option("--name", help="All that you have called so.")] = None,
    but: Annotated[
        list[int] | None, typer.Option("--everything-but", help="The scene without an object.")
    ] = None,
    min_score: Annotated[
        float, typer.Option(help="Leave out members of a lower instance_score: less halo, thinner borders.")
    ] = 0.0,
) -> None:
    """Take objects out of a scene, or out of the way: a splat that any viewer opens."""
    from gs_lift.exports import Labelled
    from gs_lift.exports import extract as write_extract

    _check_ending("--out", out, ".ply")
    if bool(ids or classes or names) == bool(but):
        raise ConfigError("wanted --id, --class or --name, or else --everything-but")
    if source is not None and source.is_file() and out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: would replace what it is taken from; choose another name")
    reporter = _reporter()
    labelled = (
        Labelled.of_file(source) if source is not None and source.is_file() else Labelled.of_run(_run(source))
    )
    rows = labelled.rows(
        ids or but or [], classes or [], names or [], everything_but=bool(but), min_score=min_score
    )
    count = write_extract(labelled, rows, out)
    reporter.say(f"wrote {out} ({count} Gaussians)")


@app.command()
def relabel(
    edited: Annotated[
        Path, typer.Argument(metavar="EDITED", help="A splat of any kind, made from labels.ply.")
    ],
    labels: Annotated[Path, typer.Option("--from", help="labels.ply with the objects.")],
    out: Annotated[
        Path | None,
        typer.Option(help="PLY to write, a .json goes beside it; EDITED with _labels.ply if left out."),
    ] = None,
) -> None:
    """Carry objects over to a splat that was pruned, moved, re-ordered or quantised elsewhere."""
    from gs_lift.relabel import relabel as carry_over

    reporter = _reporter()
    done = carry_over(edited, labels, out)
    reporter.say(f"{edited.name}: {done.matches.said(labels.name)}")
    for path in done.paths:
        reporter.say(f"wrote {path}")


@app.command()
def export(
    run: RunFolder = None,
    objects: Annotated[
        Path | None, typer.Option(help="Folder for each object as a splat: 0001.ply ...")
    ] = None,
    panoptic: Annotated[Path | None, typer.Option(help="Folder for COCO panoptic PNG and JSON.")] = None,
    id_maps: Annotated[
        Path | None, typer.Option(help="Folder for 16-bit PNG of objects' ids, 0 = none.")
    ] = None,
    scannet: Annotated[
        Path | None, typer.Option(help="Folder for ScanNet's benchmark text; with --mesh.")
    ] = None,
    mesh: Annotated[Path | None, typer.Option(help="PLY whose vertices take the objects.")] = None,
    views: Annotated[str, typer.Option(help="Of pictures: test, train or all.")] = "test",
    min_score: Annotated[
        float, typer.Option(help="Leave out members of objects of a lower instance_score.")
    ] = 0.0,
) -> None:
    """Write a segmented run in the formats of other programs."""
    from gs_lift import exports

    if not (objects or panoptic or id_maps or scannet):
        raise ConfigError(
            "nothing to write; wanted --objects, --panoptic, --id-maps or --scannet with a folder"
        )
    if (scannet is None) != (mesh is None):
        raise ConfigError("--scannet and --mesh go together: ScanNet's masks are of a mesh's vertices")
    reporter, chosen = _reporter(), _run(run)
    if objects is not None:
        written = exports.write_objects(
            exports.Labelled.of_run(chosen), objects, min_score=min_score, reporter=reporter
        )
        reporter.say(f"wrote {objects} ({len(written)} objects)")
    if panoptic is not None:
        written = exports.write_panoptic(chosen, panoptic, split=views, reporter=reporter)
        reporter.say(f"wrote {panoptic} ({len(written) - 1} frames)")
    if id_maps is not None:
        written = exports.write_id_maps(chosen, id_maps, split=views, reporter=reporter)
        reporter.say(f"wrote {id_maps} ({len(written)} frames)")
    if scannet is not None and mesh is not None:
        written = exports.write_scannet(chosen, scannet, mesh)
        reporter.say(f"wrote {written[0]} ({len(written) - 1} objects)")


@app.command()
def masks(
    scene: Annotated[Path, typer.Argument(help="Scene folder, or a folder of photos.")],
    model: Annotated[
        str,
        typer.Option(
            help="Folder with a SAM as ONNX; SAM 2 or Mask2Former for transformers, folder or hub name."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write; SCENE/masks if left out.")] = None,
    points: Annotated[int, typer.Option(help="Prompts along the longer side.")] = 20,
    predicted_iou: Annotated[float, typer.Option(help="Least predicted IoU of a mask.")] = 0.8,
    stability: Annotated[float, typer.Option(help="Least stability of a mask.")] = 0.85,
    most: Annotated[float, typer.Option(help="Largest share of the photo that a mask may cover.")] = 0.4,
    size: Annotated[int, typer.Option(help="Longest side of the masks, pixels.")] = 640,
    stride: Annotated[int, typer.Option(help="Only every so many-th photo.")] = 1,
    things: Annotated[
        list[str] | None,
        typer.Option("--thing", help="A class of Mask2Former that is a thing; COCO's are known."),
    ] = None,
) -> None:
    """Make 2D segments of a scene's photos with a segmenter that you have; goes on where it was stopped."""
    from gs_lift.segmenters import load_model, photos_of, write_masks
    from gs_lift.segmenters.automatic import AutomaticMasks

    settings = AutomaticMasks(
        points=points, predicted_iou=predicted_iou, stability=stability, most=most, size=size, stride=stride
    )
    reporter = _reporter()
    total = len(photos_of(scene)[1][::stride])
    loaded, folder = load_model(model, things), out or scene / "masks"
    with reporter.stage("masks", total) as on_step:
        count, made = write_masks(scene, folder, loaded, settings, on_step=on_step)
    reporter.say(f"wrote {folder} ({made} new of {count}); next: gslift fit {scene}")


@app.command()
def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="SCENE_OR_RUN",
            help="Scene folder to look at, too; or a segmented run: its 2D segments.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Of a run: folder for a heat map a frame and frames.json.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Say what is installed, what a scene is, and what is wrong with either; exit code 2 if anything is. Of a run:
    which frames' 2D segments disagree with its objects, worst first."""
    from gs_lift.run import is_run

    if folder is not None and is_run(folder):
        if config is not None or overrides:
            raise ConfigError("--config and --set are for a scene; a RUN has the settings that made it")
        _doctor_of_segments(folder, out)
        return
    if out is not None:
        raise ConfigError("--out is for a run; name its folder")
    from gs_lift.config import load_config
    from gs_lift.doctor import check_machine, check_scene, is_well
    from gs_lift.report import findings_table

    reporter = _reporter()
    findings = [*check_machine(), *(check_scene(folder, load_config(config, overrides)) if folder else [])]
    reporter.console.print(findings_table([(one.kind, one.what, one.found) for one in findings]))
    if not is_well(findings):
        raise typer.Exit(2)


def _doctor_of_segments(folder: Path, out: Path | None) -> None:
    from gs_lift.report import frames_table
    from gs_lift.segment_doctor import diagnose_run, in_words, table_rows, worst_first, write_heat_maps

    reporter, run = _reporter(), _run(folder)
    found = diagnose_run(run, reporter=reporter)
    if worst := worst_first(found.frames):
        reporter.console.print(frames_table(table_rows(worst)))
    for line in in_words(found):
        reporter.say(line)
    if out is not None:
        written = write_heat_maps(run, out, found, reporter=reporter)
        reporter.say(f"wrote {out} ({len(written) - 1} frames)")


@app.command("config")
def show_config(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Print every setting as YAML, each with its sentence; the output is a valid --config file."""
    from gs_lift.config import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides), sentences=True), nl=False)


def _rank() -> int:
    """This process's number among those that torchrun started; 0 speaks and writes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    from gs_lift.distributed import launched

    return launched().rank


def _reporter(*, shared: bool = False) -> "TerminalReporter":
    """shared: torchrun's processes may share the command's work; then those after the first are silent."""
    from rich.console import Console

    from gs_lift.terminal import TerminalReporter, show_warnings

    if not shared and int(os.environ.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("only `fit` is shared by the processes of torchrun; run this command without it")
    # Where nobody reads along, no line is folded to a width that nobody has.
    width = None if sys.stdout.isatty() else WIDE
    reporter = TerminalReporter(Console(width=width, quiet=_rank() > 0))
    show_warnings(reporter)
    return reporter


def _write_page(source: Path | None, out: Path) -> None:
    _check_ending("--html", out, ".html", ".htm")
    from gs_lift.scene_page import write_page

    reporter = _reporter()
    size = write_page(source if source is not None and source.is_file() else _run(source), out)
    reporter.say(f"wrote {out} ({size / 1e6:.1f} MB); open it in a browser")


def _check_ending(option: str, out: Path, *endings: str) -> None:
    if out.suffix.lower() not in endings:
        raise ConfigError(f"{option} {out}: wanted a name that ends in {endings[0]}")


def _run(folder: Path | None) -> "Run":
    from gs_lift.run import latest_run, open_run

    return open_run(folder) if folder is not None else latest_run(RUNS)


def _synthesize(
    folder: Path,
    objects: int,
    views: int,
    size: int,
    seed: int,
    noise: str,
    reporter: "TerminalReporter",
    layout: str = "messy_rooms",
) -> None:
    from gs_lift.synthetic import SynthConfig, synthesize

    with reporter.stage("synth", views) as on_step:
        synthesize(
            folder,
            SynthConfig(objects=objects, views=views, size=size, seed=seed, noise=noise, layout=layout),
            on_step=on_step,
        )


def _growth(port: int, reporter: "TerminalReporter") -> "Growth":
    from gs_lift.viewer import LOCALHOST, Growth, open_server, where_to_look

    growth = Growth(open_server(LOCALHOST, port))
    for line in where_to_look(LOCALHOST, port):
        reporter.say(line)
    return growth


def _print_stages(run: "Run", reporter: "TerminalReporter") -> None:
    from gs_lift.report import stages_table

    results = {stage: str(path) for stage, path in run.results.items()}
    reporter.console.print(stages_table(run.seconds, results))


def _print_scores(run: "Run", scores: Any, reporter: "TerminalReporter") -> None:
    from gs_lift.report import scores_table

    reporter.console.print(scores_table([(run.name, scores, run.seconds)]))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 2 with one line for what the user can mend, 130 after Ctrl-C."""
    try:
        code = app(args=arguments, standalone_mode=False) or 0
        if code == 130:  # newer versions of typer turn KeyboardInterrupt into this
            raise KeyboardInterrupt
        _leave(code)
    except GsLiftError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped; run the same command again to finish", code=130)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except Exception as error:
        # The command-line parser's own errors; which class they have depends on typer's version.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())


def _fail(message: str, code: int = 2) -> None:
    if (rank := _rank()) > 0:
        # What all processes find is said by the first.
        if code == 130 or isinstance(sys.exc_info()[1], ConfigError | WorldError):
            _leave(code)
        message = f"process {rank}: {message}"
    print(f"gslift: {' '.join(message.split())}", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    # gloo's threads may outlive their group, and abort a process while Python takes it down: one run of five did.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
