"""`gslift masks`: a small segmenter that the test makes as ONNX finds the patches of a photo, by SAM's interface."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import gslift
from onnx import TensorProto, helper
from PIL import Image

from gs_lift.datasets import DataConfig
from gs_lift.datasets.masks import find_masks
from gs_lift.errors import ConfigError, SceneError
from gs_lift.segmenters import load_model, photos_of, reduced, write_masks
from gs_lift.segmenters.automatic import AutomaticMasks, Found, automatic_masks, grid, without_doubles

SIDE = 128
COARSE = AutomaticMasks(points=8, least=0.001, most=0.5, size=SIDE)


def save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> None:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def value(name: str, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write_sam(folder: Path) -> Path:
    """encoder: the mean colour of 16 x 16 pixels. decoder: the cells whose colour is that of the point's, IoU .9."""
    folder.mkdir()
    node = helper.make_node
    save(
        folder / "encoder.onnx",
        [
            node("AveragePool", ["input"], ["colors"], kernel_shape=[16, 16], strides=[16, 16]),
            node("Concat", ["colors", "rest"], ["embedding"], axis=1),
        ],
        [value("input", [1, 3, 1024, 1024])],
        [value("embedding", [1, 256, 64, 64])],
        {"rest": np.zeros((1, 253, 64, 64), np.float32)},
    )
    inputs = {
        "image_embeddings": [1, 256, 64, 64],
        "point_coords": [1, "n", 2],
        "point_labels": [1, "n"],
        "mask_input": [1, 1, 256, 256],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    save(
        folder / "decoder.onnx",
        [
            node("Slice", ["point_coords", "zero", "one", "axis"], ["first"]),
            node("Div", ["first", "cell"], ["place"]),
            node("Floor", ["place"], ["whole"]),
            node("Cast", ["whole"], ["xy"], to=TensorProto.INT64),
            node("Reshape", ["xy", "flat"], ["pair"]),
            node("Gather", ["pair", "swap"], ["yx"]),
            node("Reshape", ["yx", "as_index"], ["index"]),
            node("Reshape", ["image_embeddings", "chw"], ["colors"]),
            node("Transpose", ["colors"], ["hwc"], perm=[1, 2, 0]),
            node("GatherND", ["hwc", "index"], ["own"]),
            node("Sub", ["hwc", "own"], ["off"]),
            node("Abs", ["off"], ["far"]),
            node("ReduceSum", ["far", "last"], ["distance"], keepdims=0),
            node("Sub", ["near", "distance"], ["logits"]),
            node("Mul", ["logits", "steep"], ["sure"]),
            node("Reshape", ["sure", "as_mask"], ["low_res_masks"]),
            node("Cast", ["orig_im_size"], ["size"], to=TensorProto.INT64),
            node("Concat", ["ones", "size"], ["shape"], axis=0),
            node("Resize", ["low_res_masks", "", "", "shape"], ["masks"], mode="nearest"),
            node("Identity", ["sureness"], ["iou_predictions"]),
        ],
        [value(name, shape) for name, shape in inputs.items()],
        [
            value("masks", [1, 1, "h", "w"]),
            value("iou_predictions", [1, 1]),
            value("low_res_masks", [1, 1, 64, 64]),
        ],
        {
            "zero": np.array([0]),
            "one": np.array([1]),
            "axis": np.array([1]),
            "cell": np.array(16.0, np.float32),
            "flat": np.array([2]),
            "swap": np.array([1, 0]),
            "as_index": np.array([1, 2]),
            "chw": np.array([256, 64, 64]),
            "last": np.array([2]),
            "near": np.array(0.5, np.float32),
            "steep": np.array(20.0, np.float32),
            "as_mask": np.array([1, 1, 64, 64]),
            "ones": np.array([1, 1]),
            "sureness": np.array([[0.9]], np.float32),
        },
    )
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam(tmp_path_factory.mktemp("models") / "sam")


def patches() -> np.ndarray:
    """[128 128] 0 on 9/16 of the photo, three patches 1 to 3 that begin and end between cells of the encoder."""
    ids = np.zeros((SIDE, SIDE), int)
    ids[16:48, 16:80], ids[64:112, 96:128], ids[80:112, 16:48] = 1, 2, 3
    return ids


def photo(ids: np.ndarray) -> np.ndarray:
    return np.array([[20, 20, 20], [250, 30, 30], [30, 250, 30], [30, 30, 250]], np.uint8)[ids]


def test_every_patch_is_a_mask_and_the_large_rest_is_none(model_folder: Path) -> None:
    found = automatic_masks(load_model(model_folder), photo(patches()), COARSE)
    masks = {tuple(np.unique(patches()[one.mask])): one for one in found}
    assert set(masks) == {(1,), (2,), (3,)}
    assert len(found) == 3
    for (number,), one in masks.items():
        # At a patch's corners the photo that was enlarged for the encoder mixes colours: a cell of 2 x 2 pixels each.
        assert not (one.mask & (patches() != number)).any()
        assert (~one.mask & (patches() == number)).sum() <= 4 * 4
        assert one.predicted_iou == pytest.approx(0.9)
        assert 0.95 < one.stability <= 1


def test_a_photo_that_is_not_square_is_padded(model_folder: Path) -> None:
    wide = np.concatenate([patches(), patches()], axis=1)[:, : SIDE * 3 // 2]
    encoded = load_model(model_folder).encode(photo(wide))
    assert encoded.shape == (SIDE, SIDE * 3 // 2)
    assert encoded.embedding.shape == (1, 256, 64, 64)
    rows = round(64 * SIDE / (SIDE * 3 / 2))
    assert np.abs(encoded.embedding[0, :3, rows + 1 :]).max() == 0
    assert np.abs(encoded.embedding[0, :3, :rows, -1]).max() > 0


@pytest.mark.parametrize(("field", "limit"), [("predicted_iou", 0.95), ("least", 0.9), ("most", 0.01)])
def test_masks_out_of_the_limits_are_left_out(field: str, limit: float, model_folder: Path) -> None:
    settings = AutomaticMasks(
        points=8, least=0.001 if field != "least" else limit, **({} if field == "least" else {field: limit})
    )
    assert automatic_masks(load_model(model_folder), photo(patches()), settings) == []


def test_of_two_masks_that_are_nearly_one_the_surer_stays() -> None:
    one, most, other = np.zeros((3, 8, 8), bool)
    one[:4], most[:4, :7], other[6:] = True, True, True
    found = without_doubles([Found(most, 0.8, 1.0), Found(one, 0.9, 1.0), Found(other, 0.7, 1.0)], 0.7)
    assert [each.predicted_iou for each in found] == [0.9, 0.7]
    assert len(without_doubles([Found(most, 0.8, 1.0), Found(one, 0.9, 1.0)], 0.9)) == 2  # their IoU is 7/8
    assert without_doubles([], 0.7) == []


def test_the_grid_has_equal_cells() -> None:
    points = grid((50, 100), 4)
    assert points.tolist() == [[x, y] for y in (12.5, 37.5) for x in (12.5, 37.5, 62.5, 87.5)]


def test_photos_are_reduced_but_never_enlarged() -> None:
    assert reduced(np.zeros((100, 50, 3), np.uint8), 40).shape == (40, 20, 3)
    assert reduced(np.zeros((10, 5, 3), np.uint8), 40).shape == (10, 5, 3)


def scene_of_photos(folder: Path, count: int = 3) -> Path:
    (folder / "images" / "left").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(photo(np.roll(patches(), 16 * number, axis=1))).save(
            folder / f"images/left/{number}.png"
        )
    return folder


def test_masks_are_written_beside_the_photos_and_read_again(model_folder: Path, tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path / "scene")
    assert write_masks(scene, scene / "masks", load_model(model_folder), COARSE) == (3, 3)
    masks = find_masks(scene, ["left/0", "left/1", "left/2"], DataConfig())
    assert masks is not None
    segments = masks.of("left/1", SIDE, SIDE)()
    ids = np.roll(patches(), 16, axis=1)
    found = segments.instance.numpy() >= 0
    pairs = set(zip(segments.instance.numpy()[found].tolist(), ids[found].tolist(), strict=True))
    assert len(pairs) == len({number for _, number in pairs} - {0}) == 3
    assert (found == (ids > 0)).mean() > 0.99
    assert float(segments.confidence[segments.instance >= 0].mean()) == pytest.approx(0.9)


def test_what_is_there_is_not_made_again(model_folder: Path, tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path / "scene")
    model = load_model(model_folder)
    assert write_masks(scene, tmp_path / "masks", model, AutomaticMasks(points=2, stride=2)) == (2, 2)
    before = (tmp_path / "masks/left/0.json").stat().st_mtime_ns
    steps: list[tuple[int, float]] = []
    settings = AutomaticMasks(points=2)
    done = write_masks(
        scene,
        tmp_path / "masks",
        model,
        settings,
        on_step=lambda step, figures: steps.append((step, figures["masks"])),
    )
    assert done == (3, 1)
    assert (tmp_path / "masks/left/0.json").stat().st_mtime_ns == before
    assert [step for step, _ in steps] == [1, 2, 3]


def test_a_folder_of_photos_is_enough(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path / "scene")
    assert photos_of(scene)[0] == scene / "images"
    assert len(photos_of(scene / "images" / "left")[1]) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="no photos; looked in images"):
        photos_of(tmp_path / "empty")


def test_models_that_are_none_are_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "one").mkdir()
    with pytest.raises(ConfigError, match=r"0 \.onnx files"):
        load_model(tmp_path / "one")
    encoder = (model_folder / "encoder.onnx").read_bytes()
    (tmp_path / "one" / "a.onnx").write_bytes(encoder)
    (tmp_path / "one" / "b.onnx").write_bytes(encoder)
    with pytest.raises(ConfigError, match="other inputs than a SAM's"):
        load_model(tmp_path / "one")
    (tmp_path / "one" / "b.onnx").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="onnxruntime cannot read it"):
        load_model(tmp_path / "one")


@pytest.mark.parametrize(("name", "number"), [("points", 0), ("stability", 1.5), ("size", 0), ("most", -1.0)])
def test_settings_out_of_range_are_refused(name: str, number: float) -> None:
    with pytest.raises(ConfigError, match=f"--{name}: got"):
        AutomaticMasks(**{name: number})


def test_the_command_says_what_it_wrote(model_folder: Path, tmp_path: Path) -> None:
    scene_of_photos(tmp_path / "scene")
    done = gslift("masks", "scene", "--model", model_folder, "--points", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 new of 3" in " ".join(done.stdout.split())
    wrong = gslift("masks", "scene", "--model", "nowhere", cwd=tmp_path)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
