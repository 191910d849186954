"""A run whose scene is lifted in blocks: each block is a run of its own, which every command takes.

RUN/blocks/plan.pt     rows, core and views of each block: written last, so that the blocks are whole where it is
RUN/blocks/001 ...     their runs, with a splat of the block's Gaussians
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from gs_lift import ply
from gs_lift.blocks import Block, split
from gs_lift.config import Config, differences, dump_config
from gs_lift.errors import RunError
from gs_lift.files import write_atomic, write_text_atomic
from gs_lift.progress import OnStep
from gs_lift.run import BLOCKS, STAGES, Run, stage_of_field
from gs_lift.scene import Scene

PLAN = "plan.pt"


def in_blocks(run: Run) -> bool:
    """Whether a run is lifted in blocks."""
    return _plan(run).is_file()


def is_block(run: Run) -> bool:
    """Whether a run is a block of another one."""
    return run.folder.parent.name == BLOCKS and (run.folder.parent / PLAN).is_file()


def block_runs(run: Run) -> list[Run]:
    """The runs of the blocks, in their order; none where a scene is lifted at once."""
    return [Run(_folder(run, number)) for number in range(len(read_blocks(run)))] if in_blocks(run) else []


def read_blocks(run: Run) -> list[Block]:
    """The blocks of a run. Raises RunError where the plan is damaged."""
    try:
        return [Block(**each) for each in torch.load(_plan(run), weights_only=True)]
    except Exception as error:  # a torn or foreign file: any of a dozen types
        raise RunError(f"{_plan(run)}: not readable ({error}); redo it with --overwrite") from None


def block_of(run: Run) -> tuple[Run, Block]:
    """The run that this one is a block of, and the block."""
    whole = Run(run.folder.parent.parent)
    return whole, read_blocks(whole)[int(run.folder.name) - 1]


def make_blocks(run: Run, scene: Scene, config: Config, *, on_view: OnStep | None = None) -> list[Run]:
    """Cut the Gaussians of a run into blocks, and make a run for each, fitted but not lifted."""
    shutil.rmtree(run.folder / BLOCKS, ignore_errors=True)  # of a call that was killed
    splat = run.result("fit")
    blocks = split(
        scene,
        ply.read_splat(splat, sh_degree=0).to(config.device),
        config.blocks,
        backend=config.backend,
        seed=config.seed,
        on_view=on_view,
    )
    record = {key: value for key, value in run.record.items() if key in ("scene", "segments")}
    for number, block in enumerate(blocks):
        each = Run(_folder(run, number))
        each.folder.mkdir(parents=True)
        each.write_record(
            **record, splat=None, splat_sha256=None, name=f"{run.name} block {each.folder.name}"
        )
        write_text_atomic(each.folder / "config.yaml", dump_config(config_of_blocks(config)))
        ply.write_splat(each.result("fit"), ply.read_splat(splat, rows=block.rows))
    write_atomic(_plan(run), lambda file: torch.save([vars(block) for block in blocks], file))
    return block_runs(run)


def config_of_blocks(config: Config) -> Config:
    """That of each block's run: it is not cut again."""
    return replace(config, blocks=replace(config.blocks, gaussians=0))


def take_settings(run: Run, config: Config) -> None:
    """Give the settings of a run to its blocks; what others have made there is gone."""
    wanted = config_of_blocks(config)
    for each in block_runs(run):
        if changed := differences(each.config, wanted):
            each.forget(min((stage_of_field(name) for name in changed), key=STAGES.index))
            write_text_atomic(each.folder / "config.yaml", dump_config(wanted))


def each_block(run: Run) -> Iterator[tuple[Block, Run]]:
    """Blocks and their runs."""
    return zip(read_blocks(run), block_runs(run), strict=True)


def _plan(run: Run) -> Path:
    return run.folder / BLOCKS / PLAN


def _folder(run: Run, number: int) -> Path:
    return run.folder / BLOCKS / f"{number + 1:03}"
