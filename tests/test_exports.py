"""Objects taken out, frames and meshes labelled, in the formats of other programs, of one tiny run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import gslift
from PIL import Image
from plyfile import PlyData
from settings import TINY, tiny_config

from gs_lift.datasets import DataConfig
from gs_lift.datasets.mask_files import read_png
from gs_lift.datasets.masks import find_masks
from gs_lift.errors import ConfigError, SplatError
from gs_lift.evaluation import panoptic
from gs_lift.exports import (
    Labelled,
    extract,
    objects_of_points,
    panoptic_ids,
    views_of,
    write_id_maps,
    write_objects,
    write_panoptic,
    write_scannet,
)
from gs_lift.gaussians import Gaussians
from gs_lift.pipeline import (
    fit_run,
    read_embeddings,
    read_gaussians,
    read_instances,
    read_scene,
    segment_run,
    write_outputs,
)
from gs_lift.ply import read_splat, write_labels
from gs_lift.run import Run
from gs_lift.scoring import score
from gs_lift.segmentation import VOID, Instances, Segments
from gs_lift.synthetic import SynthConfig, synthesize


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose objects are made by hand, a slice of the room each: what is exported does not depend on luck."""
    folder = tmp_path_factory.mktemp("exports")
    synthesize(folder / "room", SynthConfig(**TINY), processes=1)
    made = fit_run(folder / "room", tiny_config(), folder=folder / "run")
    segment_run(made)
    means = read_gaussians(made).means
    labels = torch.bucketize(means[:, 0].contiguous(), torch.tensor([-0.3, 0.0, 0.3])) - 1
    saved = torch.load(made.result("segment"), weights_only=True)
    saved["instances"]["labels"] = labels
    saved["instances"]["scores"] = torch.where(labels >= 0, torch.linspace(0.5, 1.0, len(labels)), 0.0)
    saved["instances"]["classes"] = torch.tensor([1, 1, 1])
    saved["parts"] = {
        "instance": torch.zeros(0, dtype=torch.int64),
        "parent": torch.zeros(0, dtype=torch.int64),
        "granularity": torch.zeros(0),
        "labels": torch.full_like(labels, -1),
    }
    torch.save(saved, made.result("segment"))
    return made


@pytest.fixture(scope="module")
def labels(run: Run) -> Path:
    return write_outputs(run, run.folder.parent / "labels.ply")[0]


def same(one: Gaussians, other: Gaussians) -> bool:
    pairs = zip(one.parameters().values(), other.parameters().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- Objects ----------------------------------------------------------------------------------------------------------


def test_a_run_and_its_labels_hold_the_same_objects(run: Run, labels: Path) -> None:
    of_run, of_file = Labelled.of_run(run), Labelled.of_file(labels)
    assert torch.equal(of_run.ids, of_file.ids)
    assert torch.allclose(of_run.scores, of_file.scores, atol=1e-6)
    assert of_run.class_of == of_file.class_of == {1: "object", 2: "object", 3: "object"}
    assert same(of_run.gaussians, of_file.gaussians)


def test_an_object_is_a_splat_of_inrias_exact_layout(run: Run, tmp_path: Path) -> None:
    labelled = Labelled.of_run(run)
    count = extract(labelled, labelled.rows([2]), tmp_path / "two.ply")
    own = labelled.gaussians.rows(labelled.ids == 2)
    assert count == len(own) > 0
    assert same(read_splat(tmp_path / "two.ply"), own)
    names = [each.name for each in PlyData.read(tmp_path / "two.ply")["vertex"].properties]
    rest = [f"f_rest_{i}" for i in range(3 * own.shN.shape[1])]
    shape = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, *shape]


def test_all_objects_of_a_class_and_everything_but_them_are_the_whole(run: Run) -> None:
    labelled = Labelled.of_run(run)
    chosen, others = labelled.rows(classes=["object"]), labelled.rows([1, 2, 3], everything_but=True)
    assert torch.equal(chosen, labelled.ids > 0)
    assert torch.equal(others, ~chosen)


def test_members_of_a_low_score_can_be_left_out(run: Run, tmp_path: Path) -> None:
    labelled = Labelled.of_run(run)
    sure = labelled.rows([1], min_score=0.75)
    assert torch.equal(sure, (labelled.ids == 1) & (labelled.scores >= 0.75))
    assert 0 < int(sure.sum()) < int((labelled.ids == 1).sum())
    with pytest.raises(ConfigError, match="no Gaussian is left; lower --min-score"):
        extract(labelled, labelled.rows([1], min_score=1.5), tmp_path / "none.ply")
    assert not (tmp_path / "none.ply").exists()


def test_every_object_has_a_file_by_its_id(run: Run, tmp_path: Path) -> None:
    written = write_objects(Labelled.of_run(run), tmp_path / "objects")
    assert [path.name for path in written] == ["0001.ply", "0002.ply", "0003.ply"]
    assert sum(len(read_splat(path)) for path in written) == int((Labelled.of_run(run).ids > 0).sum())


@pytest.mark.parametrize(
    ("ids", "classes", "part"),
    [
        ([7], [], "no object 7; there are 1 to 3"),
        ([], ["chair"], "--class chair: no object of it; there are object"),
    ],
)
def test_what_is_not_there_is_refused(ids: list[int], classes: list[str], part: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=part):
        Labelled.of_run(run).rows(ids, classes)


def test_labels_whose_json_is_damaged_are_refused(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(labels.read_bytes())
    assert Labelled.of_file(tmp_path / "a.ply").class_of == {1: None, 2: None, 3: None}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SplatError, match="not what `gslift segment` writes"):
        Labelled.of_file(tmp_path / "a.ply")


def test_labels_whose_ids_have_gaps_keep_classes_and_names_and_are_scored_alike(
    run: Run, labels: Path, tmp_path: Path
) -> None:
    read = Labelled.of_file(labels)
    instances = Instances(
        torch.where(read.ids > 0, 2 * read.ids - 1, -1), read.scores, torch.zeros(6, dtype=torch.int64), {}
    )
    write_labels(tmp_path / "gaps.ply", read.gaussians, instances)
    objects = [{"id": one, "class": "object", "name": f"number {one}"} for one in (2, 4, 6, 8)]
    (tmp_path / "gaps.json").write_text(json.dumps({"objects": objects}))
    gaps = Labelled.of_file(tmp_path / "gaps.ply")
    assert gaps.class_of == {2: "object", 4: "object", 6: "object"}
    assert gaps.name_of == {2: "number 2", 4: "number 4", 6: "number 6"}
    room = run.folder.parent / "room"
    with_gaps, without = (score(one, room, ["strict"], rounds=0) for one in (tmp_path / "gaps.ply", labels))
    assert with_gaps.scores == without.scores


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_id_maps_are_what_is_rendered_and_are_read_again(run: Run, tmp_path: Path) -> None:
    written = write_id_maps(run, tmp_path / "masks")
    views = views_of(run, "test")
    assert [path.stem for path in written] == [view.name for view in views]
    scene = read_scene(run)
    seen = panoptic(
        views[0].camera, read_gaussians(run), read_embeddings(run), read_instances(run), scene.classes
    )
    with Image.open(written[0]) as image:
        assert image.mode.startswith("I;16")
    assert (read_png(written[0]) == seen.instance.numpy() + 1).all()
    masks = find_masks(tmp_path, [view.name for view in views], DataConfig())
    assert masks is not None
    again = masks.of(views[0].name, views[0].camera.width, views[0].camera.height)()
    assert torch.equal(again.instance, torch.where(seen.instance >= 0, seen.instance + 1, -1))


def test_coco_panoptic_is_read_again_with_its_classes(run: Run, tmp_path: Path) -> None:
    write_panoptic(run, tmp_path / "panoptic", split="train")
    views, scene = views_of(run, "train"), read_scene(run)
    masks = find_masks(tmp_path, [view.name for view in views], DataConfig())
    assert masks is not None
    assert masks.classes == scene.classes
    assert (tmp_path / "panoptic" / f"{views[1].name}.png").is_file()
    seen = panoptic(
        views[1].camera, read_gaussians(run), read_embeddings(run), read_instances(run), scene.classes
    )
    again = masks.of(views[1].name, views[1].camera.width, views[1].camera.height)()
    assert torch.equal(again.semantic, seen.semantic)
    assert torch.equal(again.instance, torch.where(seen.instance >= 0, seen.instance + 1, -1))
    content = json.loads((tmp_path / "panoptic" / "panoptic.json").read_text())
    rows = content["annotations"][1]["segments_info"]
    assert sum(row["area"] for row in rows) == seen.semantic.numel()
    left, top, width, height = rows[0]["bbox"]
    inside = read_png(tmp_path / "panoptic" / f"{views[1].name}.png") == rows[0]["id"]
    assert inside[top : top + height, left : left + width].sum() == inside.sum() == rows[0]["area"]


def test_stuff_has_ids_behind_the_objects_and_void_none() -> None:
    segments = Segments(torch.tensor([[0, 2, -1, -1]]), torch.tensor([[1, 1, 0, VOID]]), torch.ones(1, 4))
    assert panoptic_ids(segments, 3).tolist() == [[1, 3, 4, 0]]


def test_an_unknown_split_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="--views val: wanted one of test, train, all"):
        views_of(run, "val")


# --- ScanNet ----------------------------------------------------------------------------------------------------------


def write_mesh(path: Path, points: np.ndarray) -> None:
    rows = [" ".join(f"{one:.6f}" for one in point) for point in points]
    header = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(points)}",
        *(f"property float {one}" for one in "xyz"),
        "element face 1",
        "property list uchar int vertex_indices",
    ]
    path.write_text("\n".join([*header, "end_header", *rows, "3 0 1 2"]) + "\n")


def test_vertices_take_the_object_of_the_nearest_gaussian(run: Run) -> None:
    labelled = Labelled.of_run(run)
    solid = torch.nonzero(labelled.gaussians.opacities >= 0.1)[:50, 0]
    points = labelled.gaussians.means[solid]
    far = points.amax(dim=0, keepdim=True) + 100.0
    owner = objects_of_points(labelled, torch.cat([points, far]), reach=0.02)
    assert torch.equal(owner[:-1], labelled.ids[solid])
    assert int(owner[-1]) == 0


def test_scannets_text_names_a_mask_of_the_vertices_for_each_object(run: Run, tmp_path: Path) -> None:
    labelled = Labelled.of_run(run)
    solid = labelled.gaussians.opacities >= 0.1
    write_mesh(tmp_path / "mesh.ply", labelled.gaussians.means[solid].numpy())
    written = write_scannet(run, tmp_path / "scannet", tmp_path / "mesh.ply")
    lines = [line.split(" ") for line in written[0].read_text().splitlines()]
    assert written[0].name == "room.txt"
    assert [(len(line), line[1]) for line in lines] == [
        (3, "40")
    ] * 3  # otherprop: Messy Rooms has no other class
    assert all(0 <= float(line[2]) <= 1 for line in lines)
    masks = [np.loadtxt(tmp_path / "scannet" / line[0], dtype=int) for line in lines]
    ids = labelled.ids[solid].numpy()
    for number, mask in enumerate(masks, start=1):
        assert len(mask) == len(ids)
        assert (mask == (ids == number)).mean() > 0.99  # written with six digits


# --- The commands -----------------------------------------------------------------------------------------------------


def test_the_commands_write_what_they_are_asked_for(run: Run, labels: Path, tmp_path: Path) -> None:
    done = gslift("extract", run.folder, "--id", 1, "--id", 3, "--out", "a.ply", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = gslift("extract", labels, "--everything-but", 2, "--out", "b.ply", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ids = Labelled.of_run(run).ids
    assert len(read_splat(tmp_path / "a.ply")) == int(((ids == 1) | (ids == 3)).sum())
    assert len(read_splat(tmp_path / "b.ply")) == int((ids != 2).sum())
    done = gslift("export", run.folder, "--objects", "o", "--id-maps", "i", "--panoptic", "p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").iterdir())) == 3
    assert len(list((tmp_path / "i").iterdir())) == len(views_of(run, "test"))
    assert (tmp_path / "p" / "panoptic.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["extract", "--out", "a.ply"], "wanted --id, --class or --name, or else --everything-but"),
        (
            ["extract", "--id", "1", "--everything-but", "2", "--out", "a.ply"],
            "wanted --id, --class or --name",
        ),
        (["extract", "--id", "1", "--out", "a.txt"], "wanted a name that ends in .ply"),
        (["export"], "nothing to write"),
        (["export", "--scannet", "s"], "--scannet and --mesh go together"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = gslift(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
