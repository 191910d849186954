"""COCO's panoptic format: PNGs of ids, and one JSON that says what they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gs_lift.datasets import files
from gs_lift.datasets.mask_files import RawSegments, looked_up, read_png, whole
from gs_lift.errors import SceneError
from gs_lift.segmentation import Classes

FEW = 8
"""JSON files beside masks: more are of one photo each."""


@dataclass(frozen=True)
class CocoPanoptic:
    """A folder of id PNGs and what its JSON says of them.

    rows: file name -> id -> (class, whether it is a thing).
    """

    folder: Path
    classes: Classes
    rows: dict[str, dict[int, tuple[int, bool]]]

    def read(self, path: Path) -> RawSegments:
        """Pixels of no segment, and of crowds, are VOID."""
        ids = read_png(path)
        name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        name = name if name in self.rows else path.name
        if name not in self.rows:
            raise SceneError(f"{path}: not in the annotations of the COCO panoptic JSON beside it")
        semantic, thing = looked_up(path, ids, self.rows[name], len(self.classes))
        return RawSegments(np.where(thing, ids, -1), semantic, np.broadcast_to(np.float32(1), ids.shape))


def find_coco(folder: Path, within: Path | None = None) -> CocoPanoptic | None:
    """The COCO panoptic JSON in `folder`, or of its name beside it; None if there is none.

    within: where no link may lead out of.
    """
    inside = sorted(folder.glob("*.json"))
    if len(inside) > FEW:
        return None
    beside = folder.parent / f"{folder.name}.json"
    for path in (*inside, beside):
        if not path.is_file():
            continue
        if within is not None:
            files.check_inside(folder.parent if path == beside else within, path, False)
        content = files.read_any_json(path)
        entries = content.get("annotations") if isinstance(content, dict) else None
        if isinstance(entries, list) and any(
            isinstance(one, dict) and "segments_info" in one for one in entries
        ):
            return _coco(path, folder, content)
    return None


def _coco(path: Path, folder: Path, content: dict[str, Any]) -> CocoPanoptic:
    try:
        categories = [(one["id"], str(one["name"]), bool(one["isthing"])) for one in content["categories"]]
        number = {one: place for place, (one, _, _) in enumerate(categories)}
        is_thing = tuple(thing for _, _, thing in categories)
        rows = {}
        for image in content["annotations"]:
            # A crowd is several things in one segment, which nobody can tell apart: as if it were not there.
            kept = [one for one in image["segments_info"] if not one.get("iscrowd", 0)]
            rows[str(image["file_name"])] = {
                whole(one["id"]): (number[one["category_id"]], is_thing[number[one["category_id"]]])
                for one in kept
            }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:100]
        raise SceneError(f"{path}: not COCO's panoptic format ({type(error).__name__}: {said})") from None
    if not categories:
        raise SceneError(f"{path}: no categories; wanted COCO's panoptic format")
    pictures = folder / path.stem if (folder / path.stem).is_dir() else folder
    return CocoPanoptic(pictures, Classes(tuple(name for _, name, _ in categories), is_thing), rows)
