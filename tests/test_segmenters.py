"""`gslift masks`: a small segmenter that the test makes as ONNX finds the patches of a photo, by SAM's interface."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from commands import gslift
from onnx import TensorProto, helper
from PIL import Image

from gs_lift.datasets import DataConfig
from gs_lift.datasets.masks import find_masks
from gs_lift.errors import ConfigError, SceneError
from gs_lift.segmentation import Classes
from gs_lift.segmenters import load_model, photos_of, reduced, write_masks
from gs_lift.segmenters.automatic import AutomaticMasks, Found, automatic_masks, grid, without_doubles
from gs_lift.segmenters.mask2former import merged

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
    found = automatic_masks(load_model(str(model_folder)), photo(patches()), COARSE)
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
    encoded = load_model(str(model_folder)).encode(photo(wide))
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
    assert automatic_masks(load_model(str(model_folder)), photo(patches()), settings) == []


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
    assert write_masks(scene, scene / "masks", load_model(str(model_folder)), COARSE) == (3, 3)
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
    model = load_model(str(model_folder))
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
    with pytest.raises(ConfigError, match="no segmenter that can be read"):
        load_model(str(tmp_path / "nowhere"))
    (tmp_path / "one").mkdir()
    with pytest.raises(ConfigError, match=r"0 \.onnx files"):
        load_model(str(tmp_path / "one"))
    encoder = (model_folder / "encoder.onnx").read_bytes()
    (tmp_path / "one" / "a.onnx").write_bytes(encoder)
    (tmp_path / "one" / "b.onnx").write_bytes(encoder)
    with pytest.raises(ConfigError, match="other inputs than a SAM's"):
        load_model(str(tmp_path / "one"))
    (tmp_path / "one" / "b.onnx").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="onnxruntime cannot read it"):
        load_model(str(tmp_path / "one"))


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2 with 73,000 random weights, on 64 x 64 pixels."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=1, iou_head_hidden_dim=16, num_hidden_layers=1
    )
    prompts = transformers.Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16)
    torch.manual_seed(0)
    model = transformers.Sam2Model(
        transformers.Sam2Config(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
        )
    )
    folder = tmp_path_factory.mktemp("models") / "sam2"
    model.save_pretrained(folder)
    return folder


def test_sam_2_is_asked_as_transformers_own_processor_would(sam2_folder: Path) -> None:
    """What the model says of a photo of its own size, point by point, against one call with all points."""
    sam = load_model(str(sam2_folder))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = sam.encode(pixels)
    points = np.array([[10.0, 20.0], [40.5, 30.0]])
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    tensor = torch.from_numpy(((pixels / 255 - mean) / deviation).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        whole = sam.model(
            pixel_values=tensor,
            input_points=torch.from_numpy(points).float().view(1, 2, 1, 2),
            input_labels=torch.ones(1, 2, 1, dtype=torch.int64),
        )
    for number, point in enumerate(points):
        masks, ious = image.masks_at(point)
        assert masks.shape == (3, 64, 64)
        assert np.abs(ious - whole.iou_scores[0, number].numpy()).max() < 1e-5
        low = masks[:, 1::4, 1::4]  # of bilinear growth by 4 these lie within the pixel they came from
        assert np.corrcoef(low.ravel(), whole.pred_masks[0, number].numpy().ravel())[0, 1] > 0.9


def test_sam_2_of_a_wide_photo_takes_points_where_they_are(sam2_folder: Path) -> None:
    """The photo is stretched to the model's square: so must be the point."""
    sam = load_model(str(sam2_folder))
    pixels = np.random.default_rng(1).integers(0, 256, (32, 128, 3), dtype=np.uint8)
    square = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    wide, narrow = (
        sam.encode(pixels).masks_at(np.array([100.0, 8.0])),
        sam.encode(square).masks_at(np.array([50.0, 16.0])),
    )
    assert np.abs(wide[1] - narrow[1]).max() < 1e-5
    assert wide[0].shape == (3, 32, 128)


NAMES = ("wall", "chair", "cup")
KINDS = Classes(NAMES, (False, True, True))


def queries(*rows: tuple[int, float, tuple[slice, slice]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of queries (class, probability, where) on 8 x 8 pixels; class 3 is nothing."""
    kinds, masks = torch.zeros(len(rows), 4), torch.full((len(rows), 8, 8), -10.0)
    for number, (kind, probability, where) in enumerate(rows):
        kinds[number] = np.log((1 - probability) / 3)
        kinds[number, kind] = np.log(probability)
        masks[number][where] = 10.0
    return kinds, masks


LEFT, RIGHT, TOP = (slice(None), slice(0, 4)), (slice(None), slice(4, 8)), (slice(0, 4), slice(None))


def test_queries_that_are_sure_are_segments_and_stuff_is_one() -> None:
    found = merged(*queries((1, 0.95, LEFT), (2, 0.9, RIGHT), (1, 0.5, TOP), (3, 0.99, TOP)), KINDS)
    assert {one: kind for one, (kind, _) in found.rows.items()} == {1: 1, 2: 2}
    assert (found.ids[LEFT] == 1).all()
    assert (found.ids[RIGHT] == 2).all()
    assert found.rows[1][1] == pytest.approx(0.95, abs=1e-5)
    stuff = merged(*queries((0, 0.9, LEFT), (0, 0.95, RIGHT)), KINDS)
    assert (stuff.ids == 1).all()
    assert stuff.rows == {1: (0, pytest.approx(0.95, abs=1e-5))}
    things = merged(*queries((1, 0.9, LEFT), (1, 0.95, RIGHT)), KINDS)
    assert len(things.rows) == 2


def test_a_query_that_others_take_most_of_is_none() -> None:
    found = merged(*queries((1, 0.99, LEFT), (2, 0.9, TOP)), KINDS)  # half of TOP goes to LEFT
    assert list(found.rows) == [1]
    assert (found.ids[0, 4:] == 0).all()
    assert merged(*queries((3, 0.99, LEFT)), KINDS).rows == {}


@pytest.fixture(scope="module")
def mask2former_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mask2Former with random weights whose class head is sure of chairs, on 64 x 64 pixels."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            num_queries=1,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=1,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            id2label=dict(enumerate(NAMES)),
            label2id={name: number for number, name in enumerate(NAMES)},
        )
    )
    with torch.no_grad():
        model.class_predictor.weight.zero_()
        model.class_predictor.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    folder = tmp_path_factory.mktemp("models") / "mask2former"
    model.save_pretrained(folder)
    return folder


def test_mask2former_writes_coco_panoptic_that_is_read_again(
    mask2former_folder: Path, tmp_path: Path
) -> None:
    scene = scene_of_photos(tmp_path / "scene")
    model = load_model(str(mask2former_folder), ["chair", "cup"])
    assert model.classes == KINDS
    coarse = AutomaticMasks(size=64, stride=2)
    assert write_masks(scene, scene / "masks", model, coarse) == (2, 2)
    assert write_masks(scene, scene / "masks", model, AutomaticMasks(size=64)) == (3, 1)
    masks = find_masks(scene, ["left/0", "left/1", "left/2"], DataConfig())
    assert masks is not None
    assert masks.classes == KINDS
    pixels = reduced(photo(np.roll(patches(), 16, axis=1)), 64)
    found = model.segment(pixels)
    segments = masks.of("left/1", 64, 64)()
    assert found.rows
    assert (segments.instance.numpy() == np.where(found.ids > 0, found.ids, -1)).all()
    assert set(segments.semantic[segments.instance >= 0].tolist()) == {1}


def test_classes_of_mask2former_that_are_unknown_are_refused(mask2former_folder: Path) -> None:
    with pytest.raises(ConfigError, match="3 classes, not COCO's; name the things with --thing"):
        load_model(str(mask2former_folder))
    with pytest.raises(ConfigError, match="--thing sofa: no class of the model; it has wall, chair, cup"):
        load_model(str(mask2former_folder), ["sofa"])


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="a bert; wanted sam2, mask2former, or a SAM as ONNX"):
        load_model(str(tmp_path))


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
