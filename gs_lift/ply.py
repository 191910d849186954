"""Splats and labels as PLY files, by the property names of 3DGS (Inria); the only importer of plyfile.

A splat's vertex holds, as float32: x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3, all before
activation (opacity as a logit, scales as logarithms, rot wxyz), f_rest channel by channel: all red, green, blue.
labels.ply adds `int instance_id` (0 = none, 1..M by falling size), `float instance_score` and `uchar red green blue`
after them, in the order of the input's rows: viewers of splats pass over what they do not know.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.files import write_atomic
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.palette import colorize, palette
from gs_lift.segmentation import Classes, Embeddings, Instances, Parts
from gs_lift.words import clean

MAX_HEADER_BYTES = 1 << 20
"""A PLY header is text of one or two kilobytes; a file whose header does not end before this is no PLY."""

ANTIALIASED = ("SplatRenderMode: mip", "antialiased 1")
"""Comments of a splat whose opacities were learnt with antialiasing: Brush's, which we write too, and Postshot's."""

DEEPEST = 20
"""Levels of parts within parts in labels.json."""

MOST_IDS = 1 << 20
"""Instances, by their largest id: each has a colour, also those without Gaussians."""

MAX_JSON_BYTES = 256 << 20
"""Of a labels.json; one of 1000 objects seen in 1000 views has 20 MB."""

_SIZES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2} | {
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8
}  # fmt: skip

_POSITION = ["x", "y", "z"]
_SH0 = ["f_dc_0", "f_dc_1", "f_dc_2"]
_SHAPE = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def read_splat(
    path: Path,
    *,
    steps: int | None = None,
    rows: Int[Tensor, "M"] | None = None,
    sh_degree: int = 4,
) -> Gaussians:
    """The Gaussians of a PLY in Inria's layout, with its properties in any order, at any degree 0..4, any byte order.

    `red green blue` (0..255) stand in for a missing f_dc, as nerfstudio writes them. Raises SplatError for whatever
    is no such file, before memory is taken for what its header merely claims. A header's comment tells `antialiased`.
    steps: opacities were counted in so many, as in bytes of 255: of 0 and 1, whose logits are infinite, half a step is
    taken off; otherwise they are refused. rows: of these Gaussians alone; sh_degree: harmonics of higher degrees are
    left out. What is left out takes no memory.
    """
    vertex, comments = _read_vertex(path)
    if rows is not None:
        vertex = vertex[rows.numpy()]
    names = set(vertex.dtype.names or ())
    if not names.issuperset(_SH0) and names.issuperset(["red", "green", "blue"]):
        rgb = _columns(path, vertex, ["red", "green", "blue"]) / np.float32(255)
        sh0 = (rgb - np.float32(0.5)) / np.float32(SH_C0)
    else:
        sh0 = _columns(path, vertex, _SH0)
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in (0, 9, 24, 45, 72):
        raise SplatError(f"{path}: {rest} f_rest properties; wanted 0, 9, 24, 45 or 72 (degrees 0 to 4)")
    terms = min(rest // 3, (sh_degree + 1) ** 2 - 1)
    wanted = [f"f_rest_{channel * (rest // 3) + term}" for channel in range(3) for term in range(terms)]
    shN = _columns(path, vertex, wanted).reshape(len(vertex), 3, terms)
    opacities = _columns(path, vertex, _SHAPE[:1], infinite=steps is not None)[:, 0]
    if steps is not None:
        opacities = np.where(
            np.isinf(opacities), np.sign(opacities) * np.float32(np.log(2 * steps - 1)), opacities
        )
    shape = _columns(path, vertex, _SHAPE[1:])
    quats = shape[:, 3:]
    if (zero := np.flatnonzero(~quats.any(axis=1))).size:
        raise SplatError(
            f"{path}: rot_0..3 are all zero in {zero.size} rows (first: {zero[0]}); not a rotation"
        )
    return Gaussians(
        means=torch.from_numpy(_columns(path, vertex, _POSITION)),
        quats=torch.from_numpy(quats.copy()),
        log_scales=torch.from_numpy(shape[:, :3].copy()),
        logit_opacities=torch.from_numpy(opacities),
        sh0=torch.from_numpy(sh0[:, None, :].copy()),
        shN=torch.from_numpy(shN.transpose(0, 2, 1).copy()),
        antialiased=any(one in comment for comment in comments for one in ANTIALIASED),
    )


def read_points(path: Path) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """The points of a cloud, or the vertices of a mesh, and their colours in 0..1, grey where it has none.

    Raises SplatError as `read_splat`.
    """
    vertex, _ = _read_vertex(path, mesh=True)
    means = torch.from_numpy(_columns(path, vertex, _POSITION))
    rgb = ["red", "green", "blue"]
    if not set(vertex.dtype.names or ()).issuperset(rgb):
        return means, torch.full((len(means), 3), 0.5)
    return means, torch.from_numpy(_columns(path, vertex, rgb) / np.float32(255)).clamp(0, 1)


def read_labels(path: Path) -> tuple[Int[Tensor, "N"], Float[Tensor, "N"]]:
    """The labels (-1 = none) and scores of a labels.ply, row by row; `read_splat` reads its Gaussians."""
    vertex, _ = _read_vertex(path)
    ids = _columns(path, vertex, ["instance_id"])[:, 0]
    if (ids < 0).any() or (ids != np.floor(ids)).any():
        raise SplatError(f"{path}: instance_id holds {ids.min():g}; wanted 0 (none) or 1..M")
    if ids.max(initial=0) > MOST_IDS:
        raise SplatError(f"{path}: instance_id holds {ids.max():g}; wanted at most {MOST_IDS}")
    scores = _columns(path, vertex, ["instance_score"])[:, 0]
    return torch.from_numpy(ids.astype(np.int64) - 1), torch.from_numpy(scores)


def write_splat(path: Path, gaussians: Gaussians, *, comments: Sequence[str] = ()) -> None:
    """Write Inria's exact layout, nothing else in it: the readers that know only this take it."""
    _write_vertex(path, _splat_rows(gaussians), _comments(gaussians, comments))


def write_labels(
    path: Path, gaussians: Gaussians, instances: Instances, *, comments: Sequence[str] = ()
) -> None:
    """Write the Gaussians in their order with each one's instance_id, instance_score and palette colour."""
    splat = _splat_rows(gaussians)
    colors = [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(splat), [*_fields(splat), ("instance_id", "<i4"), ("instance_score", "<f4"), *colors])
    for name in splat.dtype.names or ():
        rows[name] = splat[name]
    labels = _array(instances.labels)
    rows["instance_id"] = labels + 1
    rows["instance_score"] = _array(instances.scores)
    rows["red"], rows["green"], rows["blue"] = colorize(labels).T
    _write_vertex(path, rows, _comments(gaussians, comments))


def write_instances(
    path: Path, gaussians: Gaussians, instances: Instances, *, comments: Sequence[str] = ()
) -> None:
    """Write the splat with every Gaussian in its instance's colour, from all sides: for any viewer of splats."""
    colors = torch.from_numpy(colorize(_array(instances.labels))).float() / 255
    painted = replace(
        gaussians.detach().to("cpu"),
        sh0=((colors - 0.5) / SH_C0)[:, None, :],
        shN=torch.zeros(len(gaussians), 0, 3),
    )
    write_splat(path, painted, comments=comments)


def labels_json(
    gaussians: Gaussians,
    instances: Instances,
    classes: Classes,
    embeddings: Embeddings | None = None,
    *,
    views: Sequence[Sequence[str]] | None = None,
    detections: tuple[Sequence[int], Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
    certain: Mapping[int, float] | None = None,
    cut: Mapping[str, Any] | None = None,
) -> str:
    """What labels.ply says, one entry per object: id, class, colour, size, score, boxes of its Gaussians' centres.

    An instance without Gaussians, which an edit took from it, has none. Lengths are in world units. obb: the box along
    the principal axes (rows of `axes`). score: how probably it is an object, 0..1. gaussian: the most certain one,
    counted from 0. visibility: total blending weight over the training pixels, if the embeddings are given; views:
    names of the views that see it, if given. seen, detected: in how many of the views with segments it is seen, and in
    how many of those a segment shows it, if `detections` has both. name: what the user calls it, if `names` has it; a
    score that `certain` has stands for that of its Gaussians. parts: what it consists of, nested, each with the
    granularity from which on it is an object of its own. cut: the settings that made these objects, if given.
    """
    labels, scores, means = _array(instances.labels), _array(instances.scores), _array(gaussians.means)
    certain = dict(enumerate(instances.object_scores.tolist())) | dict(certain or {})
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(instances) + 1))
    parts = _parts(instances.parts, means, scores) if instances.parts is not None else {}
    objects = []
    for i, (color, semantic) in enumerate(
        zip(palette(len(instances)).tolist(), instances.classes.tolist(), strict=True)
    ):
        members = order[bounds[i] : bounds[i + 1]]
        if not len(members):
            continue
        entry: dict[str, Any] = {
            "id": i + 1,
            **({"name": names[i]} if names and i in names else {}),
            "class": classes.names[semantic] if 0 <= semantic < len(classes) else None,
            "color": color,
            "count": len(members),
        }
        entry["score"] = round(float(certain[i]), 6)
        entry["gaussian"] = int(members[scores[members].argmax()])
        entry |= _boxes(means[members].astype(np.float64))
        if embeddings is not None:
            entry["visibility"] = round(
                float(_array(embeddings.visibility)[members].sum(dtype=np.float64)), 3
            )
        if views is not None:
            entry["views"] = list(views[i])
        if detections is not None:
            entry["seen"], entry["detected"] = (of_all[i] for of_all in detections)
        if instances.parts is not None:
            entry["parts"] = parts.get(i, [])
        objects.append(json.dumps(entry))
    # One line an object: a person can read it, and a diff shows which object changed.
    lines = ",\n  ".join(objects)
    made_by = f'"cut": {json.dumps(cut)}, ' if cut is not None else ""
    return (
        f'{{"instances": {len(objects)}, "gaussians": {len(labels)}, "none": {int((labels < 0).sum())}, '
        + made_by
        + '"objects": ['
        + (f"\n  {lines}\n" if objects else "")
        + "]}\n"
    )


@dataclass(frozen=True)
class Described:
    """What a labels.json says of an object; None = nothing. score: in 0..1."""

    name: str | None = None
    class_name: str | None = None
    score: float | None = None


def read_labels_json(path: Path) -> dict[int, Described]:
    """The objects of a labels.json by id, from 1; none where there is no such file. Raises SplatError."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise SplatError(f"{path}: {path.stat().st_size} bytes; wanted at most {MAX_JSON_BYTES}")
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        if not isinstance(objects, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SplatError(
            f"{path}: not what `gslift segment` writes ({type(error).__name__}); mend it, or take it away"
        ) from None
    described: dict[int, Described] = {}
    for place, one in enumerate(objects):
        number, content = _described(path, place, one)
        if number in described:
            raise SplatError(f"{path}: object {place}: id {number} is there twice")
        described[number] = content
    return described


def _described(path: Path, place: int, content: Any) -> tuple[int, Described]:
    if not isinstance(content, dict):
        raise SplatError(f"{path}: object {place}: wanted {{id, class, ...}}, got {_short(content)}")
    number, score = content.get("id"), content.get("score")
    if type(number) is not int or not 1 <= number <= MOST_IDS:
        raise SplatError(f"{path}: object {place}: id: wanted 1 to {MOST_IDS}, got {_short(number)}")
    for key in ("name", "class"):
        if not isinstance(content.get(key), str | None):
            raise SplatError(
                f"{path}: object {place}: {key}: wanted text or null, got {_short(content[key])}"
            )
    if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
        raise SplatError(f"{path}: object {place}: score: wanted 0 to 1, got {_short(score)}")
    name, class_name = (clean(content.get(key) or "") or None for key in ("name", "class"))
    return number, Described(name, class_name, score)


def _short(content: Any) -> str:
    """A value of a JSON file, or its type where it may be long."""
    return type(content).__name__ if isinstance(content, list | dict) else repr(content)[:80]


def _parts(parts: Parts, means: np.ndarray, scores: np.ndarray) -> dict[int, list[dict[str, Any]]]:
    """The parts of each instance, with theirs nested in them: id, granularity, count, most certain Gaussian, boxes."""
    labels, instance = _array(parts.labels), _array(parts.instance).tolist()
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(parts) + 1))
    members = [[order[bounds[p] : bounds[p + 1]]] for p in range(len(parts))]
    parent, depth, entries = _array(parts.parent).tolist(), [0] * len(parts), list[dict[str, Any]]()
    of_instance: dict[int, list[dict[str, Any]]] = {}
    for part, granularity in enumerate(parts.granularity.tolist()):  # parents come first
        above = parent[part]
        if above >= 0 and depth[above] == DEEPEST:  # beside its parent, so that any reader can follow
            above = parent[part] = parent[above]
        depth[part] = depth[above] + 1 if above >= 0 else 1
        beside = entries[above]["parts"] if above >= 0 else of_instance.setdefault(instance[part], [])
        name = f"{entries[above]['id'] if above >= 0 else instance[part] + 1}.{len(beside) + 1}"
        entries.append({"id": name, "granularity": round(granularity, 4), "parts": []})
        beside.append(entries[-1])
    for part in range(len(parts) - 1, -1, -1):
        rows = np.concatenate(members[part])
        if parent[part] >= 0:
            members[parent[part]].append(rows)
        entries[part]["count"] = len(rows)
        if len(rows):
            entries[part]["gaussian"] = int(rows[scores[rows].argmax()])
            entries[part] |= _boxes(means[rows].astype(np.float64))
    return of_instance


def _boxes(points: np.ndarray) -> dict[str, Any]:
    """Centroid, axis-aligned box and oriented box (principal axes, by falling spread, right-handed) of [n 3] points."""
    centroid = points.mean(axis=0)
    # einsum, not @: the file must not depend on a BLAS's threads.
    centred = points - centroid
    axes = np.linalg.eigh(np.einsum("ni,nj->ij", centred, centred))[1].T[::-1]
    # An eigenvector's sign is arbitrary: its largest component is made positive, so that files compare.
    axes = axes * np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    axes[2] = np.cross(axes[0], axes[1])
    along = np.einsum("ni,ki->nk", points, axes)
    low, high = along.min(axis=0), along.max(axis=0)

    def rounded(values: np.ndarray) -> Any:
        return np.round(values, 6).tolist()

    return {
        "centroid": rounded(centroid),
        "bbox": {"min": rounded(points.min(axis=0)), "max": rounded(points.max(axis=0))},
        "obb": {
            "center": rounded((low + high) / 2 @ axes),
            "size": rounded(high - low),
            "axes": rounded(axes),
        },
    }


def _splat_rows(gaussians: Gaussians) -> np.ndarray:
    """The Gaussians as the rows of Inria's layout."""
    g = gaussians.detach().to("cpu")
    count, higher = len(g), g.shN.shape[1]
    names = [*_POSITION, "nx", "ny", "nz", *_SH0, *(f"f_rest_{i}" for i in range(3 * higher)), *_SHAPE]
    f_rest = g.shN.transpose(1, 2).reshape(count, 3 * higher)
    shape = [g.logit_opacities[:, None], g.log_scales, g.quats]
    parts = [g.means, torch.zeros(count, 3), g.sh0[:, 0], f_rest, *shape]
    table = np.ascontiguousarray(torch.cat([part.float() for part in parts], dim=1).numpy(), dtype="<f4")
    return table.view([(name, "<f4") for name in names])[:, 0]


def _comments(gaussians: Gaussians, comments: Sequence[str]) -> list[str]:
    return [*(ANTIALIASED[:1] if gaussians.antialiased else ()), *comments]


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy())


def _fields(rows: np.ndarray) -> list[tuple[str, str]]:
    return [(name, rows.dtype[name].str) for name in rows.dtype.names or ()]


def _write_vertex(path: Path, rows: np.ndarray, comments: Iterable[str]) -> None:
    """One binary little-endian `vertex` element; the bytes depend on the arguments only."""
    from plyfile import PlyData, PlyElement

    # A PLY comment is one line of ASCII.
    lines = [" ".join(comment.split()).encode("ascii", "backslashreplace").decode() for comment in comments]
    data = PlyData([PlyElement.describe(rows, "vertex")], text=False, byte_order="<", comments=lines)

    def write(file: BinaryIO) -> None:
        data.write(file)

    write_atomic(path, write)


@dataclass
class _Element:
    """An element of a PLY header; sizes: bytes of each property in a binary file."""

    name: str
    count: int
    sizes: list[int]

    def least_bytes(self, ascii_format: bool) -> int:
        """Of one row: in text a value takes a digit and a separator. A row takes something in any case."""
        return max(1, 2 * len(self.sizes) if ascii_format else sum(self.sizes))


def _read_vertex(path: Path, *, mesh: bool = False) -> tuple[np.ndarray, list[str]]:
    """The rows of the `vertex` element, not copied where the file can be mapped, and the header's comments.

    mesh: lists may follow the vertices (faces, strips); they are not read.
    """
    from plyfile import PlyData, PlyParseError

    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
        size = file.seek(0, 2)
    length, short = _check_header(path, head, size, mesh)
    try:
        if short is None:
            data = PlyData.read(str(path))
        else:  # plyfile reads a list row by row, and as many numbers as it claims: it does not get to see them
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "vertices.ply"
                with path.open("rb") as file, copy.open("wb") as out:
                    out.write(short)
                    file.seek(length)
                    shutil.copyfileobj(file, out)
                data = PlyData.read(str(copy))
        vertex, comments = data["vertex"].data, data.comments
    except (PlyParseError, ValueError, OverflowError) as error:
        raise SplatError(f"{path}: not a readable PLY: {error}") from None
    return np.asarray(vertex), [str(comment) for comment in comments]


def _check_header(path: Path, head: bytes, size: int, mesh: bool) -> tuple[int, bytes | None]:
    """How long the header is, and a shorter one without the lists that follow the vertices of a mesh, if there are any.

    Raises SplatError unless it is that of a splat (or a mesh) and the file as long as it says.
    """
    begin = re.match(rb"ply(\r\n|\n|\r)", head)
    if not begin:
        raise SplatError(f"{path}: not a PLY file (it does not begin with the line `ply`)")
    # Lines end as the first one does, for plyfile too: both must see the same header.
    text, end, _ = head.partition(begin[1] + b"end_header" + begin[1])
    if not end:
        raise SplatError(
            f"{path}: the PLY header does not end (no end_header); the file is cut short or no PLY"
        )
    lines = text.decode("latin-1").split(begin[1].decode())
    ascii_format, elements, kept = _parse_header(path, lines, mesh)
    counts = {element.name: element.count for element in elements}
    if "chunk" in counts:
        raise SplatError(
            f"{path}: a compressed PLY; export it as plain PLY first (splat-transform, SuperSplat)"
        )
    if "vertex" not in counts:
        raise SplatError(f"{path}: no vertex element; wanted 3D Gaussians")
    if counts["vertex"] == 0:
        raise SplatError(f"{path}: holds no Gaussians (0 vertices)")
    needed = sum(element.count * element.least_bytes(ascii_format) for element in elements)
    there = size - len(text) - len(end)
    # The last value of a text may lack its separator.
    if needed > there + ascii_format:
        raise SplatError(
            f"{path}: the header announces {counts['vertex']} vertices, at least {needed} bytes, but {there} follow; "
            "the file is cut short or damaged"
        )
    if kept == len(lines):
        return size - there, None
    return size - there, begin[1].join(line.encode("latin-1") for line in lines[:kept]) + end


def _parse_header(path: Path, lines: list[str], mesh: bool) -> tuple[bool, list[_Element], int]:
    """Whether the body is text, the elements, and how many lines tell of them: a mesh's lists after the vertices are
    left out, with all behind them."""
    ascii_format, elements, begins = False, list[_Element](), 0
    for number, line in enumerate(lines[1:], start=1):
        words = line.split()
        if words[:1] == ["format"]:
            ascii_format = words[1:2] == ["ascii"]
        elif words[:1] == ["element"]:
            # 18 digits: enough for any file, and int() of more digits would be slow by itself.
            if len(words) != 3 or not words[2].isdecimal() or len(words[2]) > 18:
                raise SplatError(f"{path}: PLY header: wanted `element NAME COUNT`, got {line[:80]!r}")
            elements.append(_Element(words[1], int(words[2]), []))
            begins = number
        elif words[:1] == ["property"]:
            if words[1:2] == ["list"]:
                if mesh and any(element.name == "vertex" for element in elements[:-1]):
                    return ascii_format, elements[:-1], begins
                raise SplatError(f"{path}: has a list property ({line[:80]!r}): a mesh, not a splat")
            if len(words) != 3 or words[1] not in _SIZES or not elements:
                raise SplatError(f"{path}: PLY header: wanted `property TYPE NAME`, got {line[:80]!r}")
            elements[-1].sizes.append(_SIZES[words[1]])
    return ascii_format, elements, len(lines)


def _columns(
    path: Path, vertex: np.ndarray, names: list[str], *, infinite: bool = False
) -> Float[np.ndarray, "N C"]:
    """The named properties as float32. Raises SplatError for one that is missing, nan or, unless told, infinite."""
    missing = [name for name in names if name not in (vertex.dtype.names or ())]
    if missing:
        raise SplatError(
            f"{path}: no property {', '.join(missing)}; wanted the vertex layout of 3D Gaussian Splatting"
        )
    table = np.empty((len(vertex), len(names)), np.float32)
    with np.errstate(over="ignore"):  # a double over float32's range becomes inf, which is refused below
        for column, name in enumerate(names):
            table[:, column] = vertex[name]
    good = ~np.isnan(table) if infinite else np.isfinite(table)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        bad = int((~good).any(axis=1).sum())
        raise SplatError(
            f"{path}: {bad} of {len(table)} rows hold nan or infinity (first: row {row}, {names[column]})"
        )
    return table
