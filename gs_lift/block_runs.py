"""A run whose scene is lifted in blocks: each block is a run of its own, which most commands take.

RUN/blocks/plan.pt     rows, core and views of each block
RUN/blocks/001 ...     their runs, with a splat of the block's Gaussians; all but their lifting follows from the plan
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from gs_lift import ply
from gs_lift.blocks import Block, split
from gs_lift.config import Config, differences, dump_config
from gs_lift.errors import RunError
from gs_lift.files import locked, write_atomic, write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.run import BLOCKS, STAGES, Run, stage_of_field
from gs_lift.scene import Scene

PLAN = "plan.pt"


def in_blocks(run: Run) -> bool:
    """Whether a run is lifted in blocks."""
    return _plan(run).is_file()


def is_block(run: Run) -> bool:
    """Whether a run is a block of another one."""
    parent = run.folder.resolve().parent
    return parent.name == BLOCKS and (parent / PLAN).is_file()


def each_block(run: Run) -> list[tuple[Block, Run]]:
    """Blocks and their runs, in their order. Raises RunError where the plan is damaged."""
    return [(block, Run(_folder(run, number))) for number, block in enumerate(read_blocks(run))]


def block_runs(run: Run) -> list[Run]:
    """The runs of the blocks; none where a scene is lifted at once."""
    return [each for _, each in each_block(run)] if in_blocks(run) else []


def read_blocks(run: Run) -> list[Block]:
    """The blocks of a run. Raises RunError where the plan is damaged."""
    try:
        return [Block(**each) for each in torch.load(_plan(run), weights_only=True)]
    except Exception:  # a torn or foreign file: any of a dozen types
        raise RunError(
            f"{_plan(run)}: not readable; remove {run.folder / BLOCKS}, and run `gslift fit` again"
        ) from None


def block_of(run: Run) -> tuple[Run, Block]:
    """The run that this one is a block of, and the block."""
    folder = run.folder.resolve()
    whole = Run(folder.parent.parent)
    return whole, read_blocks(whole)[int(folder.name) - 1]


def is_lifted(run: Run) -> bool:
    """Whether a run has embeddings, and if it is in blocks those of all blocks, as they are now."""
    if not run.done("lift") or not run.record.get("in_blocks"):
        return run.done("lift")
    made = run.result("lift").stat().st_mtime_ns
    return in_blocks(run) and all(
        each.done("lift") and each.result("lift").stat().st_mtime_ns <= made for each in block_runs(run)
    )


def make_blocks(
    run: Run, scene: Scene, config: Config, *, on_view: OnStep | None = None
) -> list[tuple[Block, Run]]:
    """Cut the Gaussians of a run into blocks unless that was done, and make a run for each, fitted but not lifted.

    What is missing of a block's run is made again.
    """
    with locked(run.folder / "config.yaml"):  # two processes may have come to this at once
        if not in_blocks(run):
            shutil.rmtree(run.folder / BLOCKS, ignore_errors=True)  # of a call that was killed
            gaussians = ply.read_splat(run.result("fit"), sh_degree=0).to(config.device)
            blocks = split(
                scene, gaussians, config.blocks, backend=config.backend, seed=config.seed, on_view=on_view
            )
            (run.folder / BLOCKS).mkdir()
            write_atomic(_plan(run), lambda file: torch.save([vars(block) for block in blocks], file))
        made = each_block(run)
        for block, each in made:
            _make_run(run, block, each, config)
    return made


def _make_run(run: Run, block: Block, each: Run, config: Config) -> None:
    each.folder.mkdir(exist_ok=True)
    if not (each.folder / "run.json").exists():
        record = {key: value for key, value in run.record.items() if key in ("scene", "segments")}
        name = f"{run.name} block {each.folder.name}"
        each.write_record(**record, splat=None, splat_sha256=None, name=name)
    if not (each.folder / "config.yaml").exists():
        write_text_atomic(each.folder / "config.yaml", dump_config(config_of_blocks(config)))
    if not each.done("fit"):
        ply.write_splat(each.result("fit"), ply.read_splat(run.result("fit"), rows=block.rows))


def config_of_blocks(config: Config) -> Config:
    """That of each block's run: it is not cut again."""
    return replace(config, blocks=replace(config.blocks, gaussians=0))


def take_settings(run: Run, config: Config) -> None:
    """Give the settings of a run to its blocks; what others have made there is gone."""
    wanted = config_of_blocks(config)
    for each in block_runs(run):
        if not (each.folder / "config.yaml").exists():
            continue  # made again where blocks are lifted
        if changed := differences(each.config, wanted):
            first = min((stage_of_field(name) for name in changed), key=STAGES.index)
            each.forget(max(first, "lift", key=STAGES.index))
        write_text_atomic(each.folder / "config.yaml", dump_config(wanted))


def _plan(run: Run) -> Path:
    return run.folder / BLOCKS / PLAN


def _folder(run: Run, number: int) -> Path:
    return run.folder / BLOCKS / f"{number + 1:03}"
