"""PLY files: what goes in comes out, in whatever order, and a hostile file is refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.palette import GREY, palette
from gs_lift.ply import (
    labels_json,
    read_labels,
    read_points,
    read_splat,
    write_instances,
    write_labels,
    write_splat,
)
from gs_lift.segmentation import Classes, Embeddings, Instances, Parts

CLASSES = Classes(("background", "object"), (False, True))
INRIA = (
    ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    + [f"f_rest_{i}" for i in range(45)]
    + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
)


def random_gaussians(count: int = 7, degree: int = 3, seed: int = 0) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3,), (4,), (3,), (), (1, 3), ((degree + 1) ** 2 - 1, 3)]
    return Gaussians(*(torch.randn(count, *shape, generator=draw) for shape in shapes))


def same(one: Gaussians, other: Gaussians) -> bool:
    pairs = zip(one.parameters().values(), other.parameters().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def instances_of(labels: list[int], classes: list[int]) -> Instances:
    ids = torch.tensor(labels)
    return Instances(ids, torch.where(ids >= 0, 0.75, 0.0), torch.tensor(classes, dtype=torch.int64), {})


def rewritten(path: Path, order: list[str], **how: object) -> Path:
    """The file again with its properties in another order, or another format."""
    rows = PlyData.read(str(path))["vertex"].data
    shuffled = np.empty(len(rows), [(name, rows.dtype[name]) for name in order])
    for name in order:
        shuffled[name] = rows[name]
    PlyData([PlyElement.describe(shuffled, "vertex")], **how).write(str(path))
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_a_splat_comes_back_bit_by_bit(tmp_path: Path, degree: int) -> None:
    gaussians = random_gaussians(degree=degree)
    write_splat(tmp_path / "s.ply", gaussians)
    assert same(read_splat(tmp_path / "s.ply"), gaussians)


def test_the_layout_is_inria_s_to_the_byte(tmp_path: Path) -> None:
    gaussians = random_gaussians(3)
    write_splat(tmp_path / "s.ply", gaussians)
    header = ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    header += [f"property float {name}" for name in INRIA] + ["end_header", ""]
    content = (tmp_path / "s.ply").read_bytes()
    assert content.startswith("\n".join(header).encode())
    body = np.frombuffer(content[-3 * 62 * 4 :], "<f4").reshape(3, 62)
    assert len(content) == len("\n".join(header)) + 3 * 62 * 4
    assert (body[:, 3:6] == 0).all()
    # f_rest is channel-major: all red terms, then green, then blue.
    assert (body[:, 9:24] == gaussians.shN[:, :, 0].numpy()).all()
    assert (body[:, 39:54] == gaussians.shN[:, :, 2].numpy()).all()


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_what_is_left_out_changes_nothing_of_the_rest(tmp_path: Path, degree: int) -> None:
    whole = random_gaussians()
    write_splat(tmp_path / "splat.ply", whole)
    rows = torch.tensor([4, 0, 5])
    read = read_splat(tmp_path / "splat.ply", rows=rows, sh_degree=degree)
    wanted = whole.rows(rows)
    assert torch.equal(read.shN, wanted.shN[:, : (degree + 1) ** 2 - 1])
    for name in ("means", "quats", "log_scales", "logit_opacities", "sh0"):
        assert torch.equal(getattr(read, name), getattr(wanted, name)), name


@pytest.mark.parametrize(
    "how",
    [
        {"text": True},
        {"byte_order": ">"},
        {"byte_order": "<"},
        {"byte_order": "<", "comments": ["end_header"]},
    ],
    ids=["ascii", "big-endian", "little-endian", "comment end_header"],
)
def test_order_and_format_do_not_matter(tmp_path: Path, how: dict) -> None:
    gaussians = random_gaussians(5, degree=1)
    write_splat(tmp_path / "s.ply", gaussians)
    names = list(PlyData.read(str(tmp_path / "s.ply"))["vertex"].data.dtype.names)
    order = list(np.random.default_rng(1).permutation([n for n in names if n not in ("nx", "ny", "nz")]))
    assert same(read_splat(rewritten(tmp_path / "s.ply", order, **how)), gaussians)


def test_rgb_stands_in_for_a_missing_f_dc(tmp_path: Path) -> None:
    rows = np.zeros(
        2, [(n, "f4") for n in ["x", "y", "z", *INRIA[-8:]]] + [(c, "u1") for c in ("red", "green", "blue")]
    )
    rows["rot_0"], rows["red"] = 1, [255, 0]
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(tmp_path / "s.ply"))
    gaussians = read_splat(tmp_path / "s.ply")
    assert (gaussians.sh0[:, 0, 0] * SH_C0 + 0.5).tolist() == pytest.approx([1, 0])
    assert gaussians.sh_degree == 0


# --- Labels -----------------------------------------------------------------------------------------------------------


def test_labels_ply_has_exactly_the_promised_properties(tmp_path: Path) -> None:
    gaussians, instances = random_gaussians(4), instances_of([0, -1, 1, 0], [1, 1])
    write_labels(
        tmp_path / "labels.ply", gaussians, instances, comments=["gs_lift 1", "frame: ä\nelement x 9"]
    )
    data = PlyData.read(str(tmp_path / "labels.ply"))
    assert [element.name for element in data.elements] == ["vertex"]
    extra = {"instance_id": "<i4", "instance_score": "<f4", "red": "|u1", "green": "|u1", "blue": "|u1"}
    dtype = data["vertex"].data.dtype
    assert {name: dtype[name].str for name in dtype.names} == dict.fromkeys(INRIA, "<f4") | extra
    assert list(dtype.names) == INRIA + list(extra)
    assert data.comments == ["gs_lift 1", "frame: \\xe4 element x 9"]
    assert data["vertex"]["instance_id"].tolist() == [1, 0, 2, 1]
    colors = np.stack([data["vertex"][c] for c in ("red", "green", "blue")], axis=1)
    assert colors.tolist() == [[*palette(2)[0]], [*GREY], [*palette(2)[1]], [*palette(2)[0]]]


def test_labels_and_gaussians_come_back(tmp_path: Path) -> None:
    gaussians, instances = random_gaussians(4), instances_of([0, -1, 1, 0], [1, 1])
    write_labels(tmp_path / "labels.ply", gaussians, instances)
    labels, scores = read_labels(tmp_path / "labels.ply")
    assert labels.tolist() == [0, -1, 1, 0]
    assert scores.tolist() == [0.75, 0, 0.75, 0.75]
    assert same(read_splat(tmp_path / "labels.ply"), gaussians)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.ply", "b.ply"):
        write_labels(tmp_path / name, random_gaussians(), instances_of([0] * 7, [1]), comments=["c"])
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply", "b.ply"]


def test_a_splat_without_labels_has_none_to_read(tmp_path: Path) -> None:
    write_splat(tmp_path / "s.ply", random_gaussians())
    with pytest.raises(SplatError, match="no property instance_id"):
        read_labels(tmp_path / "s.ply")


def test_instances_ply_shows_flat_palette_colours(tmp_path: Path) -> None:
    write_instances(tmp_path / "i.ply", random_gaussians(3), instances_of([1, 0, -1], [1, 1]))
    painted = read_splat(tmp_path / "i.ply")
    rgb = (painted.sh0[:, 0] * SH_C0 + 0.5) * 255
    assert painted.sh_degree == 0
    assert rgb.round().int().tolist() == [[*palette(2)[1]], [*palette(2)[0]], [*GREY]]


def test_labels_json_describes_each_object() -> None:
    gaussians = random_gaussians(5)
    # A bar of length 4 along the diagonal of x and y, and a single Gaussian.
    gaussians.means[:3] = torch.tensor([[0.0, 0, 1], [1, 1, 1], [8**0.5, 8**0.5, 1]])
    gaussians.means[3] = torch.tensor([5.0, 6, 7])
    embeddings = Embeddings(
        *(torch.zeros(5, 2) for _ in range(3)), visibility=torch.tensor([1.0, 2, 3, 4, 5])
    )
    report = json.loads(
        labels_json(
            gaussians,
            instances_of([0, 0, 0, 1, -1], [1, -1]),
            CLASSES,
            embeddings,
            views=[["a", "b"], []],
            detections=([4, 2], [3, 0]),
        )
    )
    assert {key: report[key] for key in ("instances", "gaussians", "none")} == {
        "instances": 2,
        "gaussians": 5,
        "none": 1,
    }
    bar, point = report["objects"]
    assert [(one["seen"], one["detected"]) for one in (bar, point)] == [(4, 3), (2, 0)]
    assert (bar["id"], bar["class"], bar["count"], bar["score"], bar["visibility"]) == (
        1,
        "object",
        3,
        pytest.approx(0.75 / 0.93, abs=1e-6),
        6,
    )
    assert bar["color"] == palette(2)[0].tolist()
    assert bar["views"] == ["a", "b"]
    assert bar["bbox"] == {"min": [0, 0, 1], "max": pytest.approx([8**0.5, 8**0.5, 1], abs=1e-5)}
    assert bar["obb"]["size"] == pytest.approx([4, 0, 0], abs=1e-5)
    assert bar["obb"]["axes"][0] == pytest.approx([0.5**0.5, 0.5**0.5, 0], abs=1e-5)
    assert bar["obb"]["center"] == pytest.approx([2**0.5, 2**0.5, 1], abs=1e-5)
    assert np.linalg.det(bar["obb"]["axes"]) == pytest.approx(1, abs=1e-5)
    assert (point["class"], point["centroid"], point["obb"]["size"]) == (None, [5, 6, 7], [0, 0, 0])


def test_labels_json_nests_the_parts_of_an_object() -> None:
    gaussians = random_gaussians(6)
    parts = Parts(
        instance=torch.tensor([1, 1, 1, 1]),
        parent=torch.tensor([-1, -1, 0, 0]),
        granularity=torch.tensor([0.6, 0.6, 0.8, 0.8]),
        labels=torch.tensor([-1, -1, 1, 2, 3, 0]),
    )
    instances = replace(instances_of([0, 0, 1, 1, 1, 1], [1, 1]), parts=parts)
    report = json.loads(labels_json(gaussians, instances, CLASSES, cut={"granularity": 0.5}))
    assert report["cut"] == {"granularity": 0.5}
    whole, made_up = report["objects"]
    assert whole["parts"] == []
    large, small = made_up["parts"]
    assert (large["id"], large["count"], large["granularity"]) == ("2.1", 3, 0.6)
    assert (small["id"], small["count"], small["parts"]) == ("2.2", 1, [])
    assert [(part["id"], part["count"]) for part in large["parts"]] == [("2.1.1", 1), ("2.1.2", 1)]
    assert large["centroid"] == pytest.approx(gaussians.means[3:6].mean(dim=0).tolist(), abs=1e-5)


def test_labels_json_takes_parts_within_parts_of_any_depth() -> None:
    count = 3000
    parts = Parts(
        instance=torch.zeros(count, dtype=torch.int64),
        parent=torch.arange(-1, count - 1),
        granularity=torch.linspace(0.5, 1, count),
        labels=torch.arange(count),
    )
    instances = replace(instances_of([0] * count, [1]), parts=parts)
    (whole,) = json.loads(labels_json(random_gaussians(count), instances, CLASSES))["objects"]
    seen, waiting = 0, list(whole["parts"])
    while waiting:
        part = waiting.pop()
        seen += 1
        waiting += part["parts"]
    assert seen == count
    assert whole["parts"][0]["count"] == count


def test_labels_json_of_no_object() -> None:
    report = json.loads(labels_json(random_gaussians(2), instances_of([-1, -1], []), CLASSES))
    assert report == {"instances": 0, "gaussians": 2, "none": 2, "objects": []}


# --- Hostile files ----------------------------------------------------------------------------------------------------


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _cut_header(content: bytes) -> bytes:
    return content[:200]


def _count(text: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(b"element vertex 7", b"element vertex " + text)


def _line(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty file": (lambda content: b"", "not a PLY file"),
    "wrong magic": (_line(b"ply\n", b"PK\3\4"), "not a PLY file"),
    "cut header": (_cut_header, "does not end"),
    "header without end": (lambda content: b"ply\n" + b"x" * 2_000_000, "does not end"),
    "one byte short": (_cut, "cut short"),
    "a million rows": (_count(b"1000000"), "cut short"),
    "rows beyond any memory": (_count(b"999999999999999999"), "cut short"),
    "rows beyond int64": (_count(b"9" * 400), "wanted `element NAME COUNT`"),
    "a negative count": (_count(b"-7"), "wanted `element NAME COUNT`"),
    "no rows": (_count(b"0"), "holds no Gaussians"),
    "huge ascii": (_line(b"binary_little_endian", b"ascii"), "not a readable PLY"),
    "rows without properties": (_line(b"end_header", b"element air 99999999999\nend_header"), "cut short"),
    "list property": (_line(b"property float nx", b"property list uchar int nx"), "list property"),
    "unknown type": (_line(b"property float nx", b"property quad nx"), "wanted `property TYPE NAME`"),
    "property before element": (_line(b"element vertex 7\n", b""), "wanted `property TYPE NAME`"),
    "no vertex": (_line(b"element vertex", b"element point"), "no vertex element"),
    "compressed": (_line(b"element vertex 7", b"element chunk 1\nelement vertex 7"), "compressed PLY"),
    "same name twice": (_line(b"float nx", b"float ny"), "not a readable PLY"),
    "no opacity": (_line(b"float opacity", b"float opaque"), "no property opacity"),
    "no third scale": (_line(b"float scale_2", b"float size"), "no property scale_2"),
    "44 f_rest": (_line(b"float f_rest_44", b"float extra"), "44 f_rest properties"),
    "f_rest with a gap": (_line(b"float f_rest_7\n", b"float f_rest_99\n"), "no property f_rest_7"),
    "not ascii": (_line(b"float nx", b"float n\xff"), "not a readable PLY"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    damage, message = HOSTILE[name]
    path = tmp_path / "s.ply"
    write_splat(path, random_gaussians())
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(SplatError, match=message) as error:
        read_splat(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    gaussians = random_gaussians()
    gaussians.log_scales[4, 1] = value
    write_splat(tmp_path / "s.ply", gaussians)
    with pytest.raises(SplatError, match=r"1 of 7 rows .*row 4, scale_1"):
        read_splat(tmp_path / "s.ply")


def test_a_double_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    write_splat(tmp_path / "s.ply", random_gaussians(2, degree=0))
    rows = PlyData.read(str(tmp_path / "s.ply"), mmap=False)["vertex"].data
    wide = rows.astype([(name, "f8") for name in rows.dtype.names])
    wide["y"][1] = 1e300
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(tmp_path / "s.ply"))
    with pytest.raises(SplatError, match="row 1, y"):
        read_splat(tmp_path / "s.ply")


def test_a_rotation_of_zeros_is_refused(tmp_path: Path) -> None:
    gaussians = random_gaussians()
    gaussians.quats[3] = 0
    write_splat(tmp_path / "s.ply", gaussians)
    with pytest.raises(SplatError, match=r"all zero in 1 rows \(first: 3\)"):
        read_splat(tmp_path / "s.ply")


@pytest.mark.parametrize("bad", [-1, 1.5])
def test_an_instance_id_below_zero_or_broken_is_refused(tmp_path: Path, bad: float) -> None:
    write_labels(tmp_path / "labels.ply", random_gaussians(2), instances_of([0, 0], [1]))
    rows = PlyData.read(str(tmp_path / "labels.ply"), mmap=False)["vertex"].data
    wide = rows.astype([(n, "f4" if n == "instance_id" else rows.dtype[n]) for n in rows.dtype.names])
    wide["instance_id"][0] = bad
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(tmp_path / "labels.ply"))
    with pytest.raises(SplatError, match="instance_id holds"):
        read_labels(tmp_path / "labels.ply")


# --- Antialiasing and meshes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comment", ["SplatRenderMode: mip", "antialiased 1"])
def test_brush_and_postshot_say_in_a_comment_that_a_splat_is_antialiased(
    comment: str, tmp_path: Path
) -> None:
    write_splat(tmp_path / "mip.ply", random_gaussians(), comments=["made by somebody", comment])
    assert read_splat(tmp_path / "mip.ply").antialiased
    write_splat(tmp_path / "classic.ply", random_gaussians(), comments=["made by somebody", "antialiased 0"])
    assert not read_splat(tmp_path / "classic.ply").antialiased


def test_an_antialiased_splat_stays_one_in_all_that_is_made_of_it(tmp_path: Path) -> None:
    gaussians, instances = replace(random_gaussians(3), antialiased=True), instances_of([0, 0, -1], [1])
    write_splat(tmp_path / "splat.ply", gaussians.rows(torch.tensor([0, 2])))
    write_labels(tmp_path / "labels.ply", gaussians.detach(), instances)
    write_instances(tmp_path / "instances.ply", gaussians.to("cpu"), instances)
    assert all(read_splat(tmp_path / f"{one}.ply").antialiased for one in ("splat", "labels", "instances"))


def write_mesh(path: Path, *, text: bool, faces: list[list[int]]) -> None:
    kinds = [*((one, "<f4") for one in "xyz"), *((one, "u1") for one in ("red", "green", "blue"))]
    rows = [(0, 0, 0, 255, 0, 0), (1, 0, 0, 0, 0, 0), (0, 1, 0, 51, 0, 0)]
    vertex = np.array(rows, kinds)
    face = np.empty(len(faces), [("vertex_indices", "O")])
    face["vertex_indices"] = [np.array(one, np.int32) for one in faces]
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    PlyData(elements, text=text, byte_order="=" if text else "<").write(str(path))


@pytest.mark.parametrize("text", [True, False])
def test_the_points_of_a_mesh_are_its_vertices(text: bool, tmp_path: Path) -> None:
    write_mesh(tmp_path / "mesh.ply", text=text, faces=[[0, 1, 2], [0, 1, 2, 1]])
    points, colors = read_points(tmp_path / "mesh.ply")
    assert points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert torch.allclose(colors[:, 0], torch.tensor([1.0, 0.0, 0.2]))
    with pytest.raises(SplatError, match=r"has a list property .* a mesh, not a splat"):
        read_splat(tmp_path / "mesh.ply")


def test_what_follows_the_vertices_of_a_mesh_is_not_read(tmp_path: Path) -> None:
    """A face that claims 4 * 10^9 corners takes neither memory nor time."""
    write_mesh(tmp_path / "mesh.ply", text=False, faces=[[0, 1, 2]])
    content = (tmp_path / "mesh.ply").read_bytes()
    head, _, body = content.partition(b"end_header\n")
    head = head.replace(b"property list uchar", b"property list uint").replace(b"face 1", b"face 99999999999")
    (tmp_path / "mesh.ply").write_bytes(head + b"end_header\n" + body[:-13] + b"\xff" * 4)
    assert len(read_points(tmp_path / "mesh.ply")[0]) == 3
    (tmp_path / "mesh.ply").write_bytes(head + b"end_header\n" + body[:20])
    with pytest.raises(SplatError, match="the header announces 3 vertices, at least 45 bytes, but 20 follow"):
        read_points(tmp_path / "mesh.ply")


def test_lists_among_the_vertices_or_before_them_are_refused(tmp_path: Path) -> None:
    for elements in (
        ["element face 1", "property list uchar int i", "element vertex 1", "property float x"],
        ["element vertex 1", "property float x", "property list uchar int i"],
    ):
        (tmp_path / "m.ply").write_text(
            "\n".join(["ply", "format ascii 1.0", *elements, "end_header", "1 0", "1"])
        )
        with pytest.raises(SplatError, match="has a list property"):
            read_points(tmp_path / "m.ply")
