"""Checkpoints of a loop: written atomically, the newest readable one found again, old ones pruned."""

import logging
from pathlib import Path
from typing import Any

import torch

from gs_lift.files import write_atomic

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one stage in one folder, as `step_00000500.pt`.

    A state is a dict of tensors, numbers, strings, lists and dicts: it is read without unpickling objects.
    """

    def __init__(self, folder: Path, every: int = 500, keep: int = 2):
        self.folder, self.every, self.keep = folder, every, keep

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def due(self, step: int) -> bool:
        """Whether a state is to be saved after this many steps."""
        return step % self.every == 0

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, then drop all but the newest `keep`."""
        write_atomic(self.folder / f"step_{step:08d}.pt", lambda file: torch.save(state, file))
        for path in self._paths()[: -self.keep]:
            path.unlink(missing_ok=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest state and its step; a file that cannot be read is passed over with a warning."""
        for path in reversed(self._paths()):
            try:
                return int(path.stem.split("_")[1]), torch.load(path, weights_only=True)
            except Exception as error:  # a torn or foreign file: any of a dozen types
                log.warning("%s: not readable (%s); an older checkpoint is used", path, error)
        return None

    def clear(self) -> None:
        """Remove every checkpoint: the stage's result has been written."""
        for path in self._paths():
            path.unlink(missing_ok=True)
