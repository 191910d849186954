"""Segments of any segmenter: the same ones from every format, matched by name and size, and damage in one line."""

import gzip
import io
import json
import logging
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rooms import write_room

from gs_lift.datasets import DataConfig, load_scene
from gs_lift.datasets.files import MAX_PIXELS
from gs_lift.datasets.mask_files import read_mask
from gs_lift.datasets.masks import find_masks
from gs_lift.datasets.rle import decode, run_lengths
from gs_lift.datasets.scannet import CLASSES as SCANNET_CLASSES
from gs_lift.errors import ConfigError, SceneError
from gs_lift.segmentation import VOID, Segments

IDS = np.array([[0, 0, 7, 7], [0, 2, 2, 7], [5, 2, 2, 0]])
"""Three segments; 5 is a single pixel."""
HEIGHT, WIDTH = IDS.shape
AUTO = DataConfig()


def packed(counts: list[int]) -> str:
    """COCO's string of them (maskApi.c, rleToString)."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def sam(ids: np.ndarray, counts: Callable[[np.ndarray], object]) -> list[dict[str, object]]:
    return [
        {"segmentation": {"size": list(ids.shape), "counts": counts(ids == one)}, "predicted_iou": 0.9}
        for one in np.unique(ids[ids > 0])
    ]


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_grey8(path: Path) -> None:
    Image.fromarray(IDS.astype(np.uint8)).save(path.with_suffix(".png"))


def write_grey16(path: Path) -> None:
    Image.fromarray((IDS * 5000).astype(np.uint16)).save(path.with_suffix(".png"))


def write_palette(path: Path) -> None:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(IDS.ravel().tolist())
    image.putpalette([200, 10, 10] * 256)  # all the same colour: only the indices tell
    image.save(path.with_suffix(".png"))


def write_rgb(path: Path) -> None:
    ids = IDS * 40000
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(
        path.with_suffix(".png")
    )


def write_sam(path: Path) -> None:
    path.with_suffix(".json").write_text(json.dumps(sam(IDS, run_lengths)))


def write_sam_packed(path: Path) -> None:
    content = {"image": {}, "annotations": sam(IDS, lambda mask: packed(run_lengths(mask)))}
    path.with_suffix(".json").write_text(json.dumps(content))


def write_sam_folder(path: Path) -> None:
    path.mkdir()
    used = np.unique(IDS[IDS > 0])
    for number, one in enumerate(used):
        Image.fromarray(((one == IDS) * 255).astype(np.uint8)).save(path / f"{number}.png")
    rows = [f"{number},0.9" for number in range(len(used))]
    (path / "metadata.csv").write_text("\n".join(["id,predicted_iou", *rows]) + "\n")


def write_npy(path: Path) -> None:
    np.save(path.with_suffix(".npy"), IDS.astype(np.int32))


def write_npy_stack(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.stack([one == IDS for one in (7, 2, 5)]))


def write_pt(path: Path) -> None:
    path.with_suffix(".pt").write_bytes(
        torch_bytes(torch.from_numpy(np.stack([one == IDS for one in (7, 2, 5)])))
    )


FORMATS = {
    "8 bit": write_grey8,
    "16 bit": write_grey16,
    "palette": write_palette,
    "RGB": write_rgb,
    "SAM": write_sam,
    "SA-1B": write_sam_packed,
    "SAM's folder": write_sam_folder,
    "npy": write_npy,
    "npy stack": write_npy_stack,
    "SAGA": write_pt,
}


def same_partition(instance: np.ndarray, ids: np.ndarray) -> bool:
    """Whether two maps have the same segments, whatever their numbers."""
    pairs = set(zip(instance.ravel().tolist(), ids.ravel().tolist(), strict=True))
    return (
        len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
        and (-1, 0) in pairs
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_segments(format: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    FORMATS[format](tmp_path / "masks" / "a")
    masks = find_masks(tmp_path, ["a"], AUTO)
    assert masks is not None
    read = masks.of("a", WIDTH, HEIGHT)
    assert read is not None
    segments = read()
    assert same_partition(segments.instance.numpy(), IDS)
    assert (segments.semantic.numpy() == (IDS > 0)).all()
    sure = 0.9 if "SA" in format and format != "SAGA" else 1.0
    assert segments.confidence.numpy()[IDS > 0] == pytest.approx(sure)
    assert (segments.confidence.numpy()[IDS == 0] == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_unpacked_as_they_were_packed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 57)) < (0.5, 0.02, 0.98, 0.001, 1.1)[seed]
    assert len(run_lengths(mask)) == 1 + int(mask[0, 0]) + int(
        (np.diff(mask.T.ravel().astype(int)) != 0).sum()
    )
    for counts in (run_lengths(mask), packed(run_lengths(mask))):
        assert (decode(Path("a"), {"size": [40, 57], "counts": counts}) == mask).all()


def test_a_string_of_pycocotools_is_read() -> None:
    # pycocotools.mask.encode of ones in rows 2:9, columns 3:8 of 12 x 10.
    mask = np.zeros((12, 10), bool)
    mask[2:9, 3:8] = True
    assert (decode(Path("a"), {"size": [12, 10], "counts": "V1750000000f0"}) == mask).all()


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((37, 301)) < (0.5, 0.01, 0.999, 0)[seed]
    theirs = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = theirs["counts"].decode()
    assert (decode(Path("a"), {"size": [37, 301], "counts": counts}) == mask).all()
    assert packed(run_lengths(mask)) == counts


@pytest.mark.parametrize(
    ("said", "confidence"),
    [
        ({"predicted_iou": 0.5, "stability_score": 0.75}, 0.5),
        ({"stability_score": 0.75}, 0.75),
        ({"score": 0.25}, 0.25),
        ({"predicted_iou": 1.01}, 1),
        ({}, 1),
    ],
)
def test_a_mask_is_as_sure_as_the_first_score_that_it_has(
    said: dict[str, float], confidence: float, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"segmentation": {"size": [3, 4], "counts": [0, 12]}} | said])
    )
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "metadata.csv").write_text(
        f"{','.join(['id', *said])}\n{','.join(['0', *map(str, said.values())])}\n"
    )
    for name in ("a.json", "a"):
        assert read_mask(tmp_path / name).confidence == pytest.approx(confidence)


@pytest.mark.parametrize(
    "array",
    [
        IDS[None],
        np.stack([(one == IDS) * np.uint8(255) for one in (7, 2, 5)]),
        np.stack([(one == IDS) * 1.0 for one in (7, 2, 5)]),
    ],
    ids=["ids of one channel", "0 and 255", "0.0 and 1.0"],
)
def test_masks_may_be_numbers_and_ids_may_have_a_channel(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    assert same_partition(read_mask(tmp_path / "a.npy").instance, IDS)


def test_masks_one_over_another_take_the_memory_of_one_map(tmp_path: Path) -> None:
    side, count = 1000, 60
    entries = [
        {
            "segmentation": {
                "size": [side, side],
                "counts": [0, (count - place) * 1000, place * 1000 + 940_000],
            }
        }
        for place in range(count)
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    tracemalloc.start()
    raw = read_mask(tmp_path / "a.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * side * side  # bytes; a stack of the masks alone takes 60
    assert np.unique(raw.instance).tolist() == [-1, *range(1, count + 1)]


def test_the_smaller_of_two_masks_lies_on_top(tmp_path: Path) -> None:
    large, small = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    small[1:3, 1:3] = True
    np.save(tmp_path / "a.npy", np.stack([small, large]))
    raw = read_mask(tmp_path / "a.npy")
    assert len(np.unique(raw.instance[small])) == len(np.unique(raw.instance[~small])) == 1
    assert raw.instance[1, 1] != raw.instance[0, 0]


def test_a_photo_in_which_nothing_was_found_has_no_segments(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.json").write_text("[]")
    segments = read(tmp_path)
    assert segments.instance.shape == (HEIGHT, WIDTH)
    assert (segments.instance == -1).all()


# --- COCO panoptic and .ptz -------------------------------------------------------------------------------------------

CATEGORIES = [
    {"id": 11, "name": "wall", "isthing": 0},
    {"id": 40, "name": "chair", "isthing": 1},
    {"id": 41, "name": "cup", "isthing": 1},
]


@pytest.mark.parametrize("where", ["masks/panoptic.json", "masks.json"])
def test_coco_panoptic_brings_its_classes(where: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_rgb(tmp_path / "masks" / "a.png")
    segments = [
        {"id": 7 * 40000, "category_id": 40},
        {"id": 2 * 40000, "category_id": 11},
        {"id": 5 * 40000, "category_id": 41, "iscrowd": 1},
    ]
    content = {"annotations": [{"file_name": "a.png", "segments_info": segments}], "categories": CATEGORIES}
    (tmp_path / where).write_text(json.dumps(content))
    masks = find_masks(tmp_path, ["a"], AUTO)
    assert masks is not None
    assert masks.classes.names == ("wall", "chair", "cup")
    assert masks.classes.is_thing == (False, True, True)
    found = masks.of("a", WIDTH, HEIGHT)()
    assert (found.instance.numpy() >= 0).tolist() == (IDS == 7).tolist()
    wanted = np.select([IDS == 7, IDS == 2], [1, 0], VOID)
    assert (found.semantic.numpy() == wanted).all()


def test_other_json_files_do_not_hide_the_panoptic_one(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_rgb(tmp_path / "masks" / "a.png")
    for name in ("captions", "instances", "keypoints"):
        (tmp_path / "masks" / f"{name}.json").write_text('{"annotations": [{"id": 1}]}')
    content = {"annotations": [{"file_name": "a.png", "segments_info": []}], "categories": CATEGORIES}
    (tmp_path / "masks" / "panoptic.json").write_text(json.dumps(content))
    masks = find_masks(tmp_path, ["a"], AUTO)
    assert masks is not None
    assert masks.classes.names == ("wall", "chair", "cup")


def test_a_ptz_brings_scannets_classes_and_confidences(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    content = {
        "mask": torch.from_numpy(IDS).int(),
        "segments": [
            {"id": 7, "isthing": True, "category_id": 5},
            {"id": 2, "isthing": False, "category_id": 1},
            {"id": 5, "isthing": False, "category_id": 0},
        ],
        "confidences": torch.full(IDS.shape, 0.75),
    }
    (tmp_path / "masks" / "a.ptz").write_bytes(gzip.compress(torch_bytes(content)))
    masks = find_masks(tmp_path, ["a"], AUTO)
    assert masks is not None
    assert masks.classes == SCANNET_CLASSES
    found = masks.of("a", WIDTH, HEIGHT)()
    assert (found.instance.numpy() == np.where(IDS == 7, 7, -1)).all()
    assert (found.semantic.numpy() == np.select([IDS == 7, IDS == 2], [5, 1], VOID)).all()
    assert (found.confidence == 0.75).all()


# --- Confidence beside ------------------------------------------------------------------------------------------------

SURE = np.arange(12, dtype=np.float32).reshape(3, 4) / 16


def test_an_archive_beside_has_the_confidence_of_each_pixel(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    np.savez_compressed(tmp_path / "masks" / "a.npz", confidence=SURE, probability=np.ones((3, 4, 2)))
    segments = read(tmp_path)
    assert (segments.instance.numpy() == np.where(IDS > 0, IDS, -1)).all()
    assert (segments.confidence.numpy() == SURE).all()
    larger = read(tmp_path, 2 * WIDTH, 2 * HEIGHT).confidence.numpy()
    assert (larger == np.kron(SURE, np.ones((2, 2)))).all()


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"probability": SURE}, "no array `confidence`"),
        ({"confidence": SURE.ravel()}, r"shape (12,) of `confidence`"),
        ({"confidence": SURE[:1]}, "4x1 pixels, another shape than the photo's 4x3"),
        ({"confidence": SURE + 1}, "`confidence` outside 0..1"),
        ({"confidence": SURE * np.nan}, "`confidence` outside 0..1"),
        ({"confidence": IDS}, "`confidence` has dtype int64"),
        ({"confidence": np.array([Ellipsis])}, "`confidence` has dtype object"),
    ],
)
def test_a_broken_confidence_is_refused_in_one_line(
    arrays: dict[str, np.ndarray], part: str, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    np.savez(tmp_path / "masks" / "a.npz", **arrays)
    with pytest.raises(SceneError) as caught:
        read(tmp_path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_confidence_without_segments_is_none(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    np.savez(tmp_path / "masks" / "a.npz", confidence=SURE)
    with pytest.raises(SceneError, match=r"masks: no \.png \.json"):
        find_masks(tmp_path, ["a"], AUTO)


# --- Names and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo", "mask"), [("a", "a.png"), ("a", "a.jpg.png"), ("left/a", "left/a.JPG.png"), ("left/a", "a.png")]
)
def test_masks_are_matched_by_name_without_endings(photo: str, mask: str, tmp_path: Path) -> None:
    path = tmp_path / "masks" / mask
    path.parent.mkdir(parents=True)
    Image.fromarray(IDS.astype(np.uint8)).save(path)
    masks = find_masks(tmp_path, [photo], AUTO)
    assert masks is not None
    assert masks.of(photo, WIDTH, HEIGHT) is not None
    assert masks.of("b", WIDTH, HEIGHT) is None


def test_one_mask_is_not_given_to_two_photos_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    with pytest.raises(SceneError, match="no segments for any of 2 photos"):
        find_masks(tmp_path, ["left/a", "right/a"], AUTO)


def test_what_has_no_partner_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a", "x", "y"):
        write_grey8(tmp_path / "masks" / name)
    caplog.set_level(logging.WARNING)
    find_masks(tmp_path, ["a", "b", "c", "d", "e"], AUTO)
    assert "4 photos without segments (b, c, d, ...)" in caplog.text
    assert "2 segments without a photo (x, y)" in caplog.text


def test_sizes_are_matched_by_the_nearest_pixel(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    larger = read(tmp_path, 2 * WIDTH, 2 * HEIGHT).instance.numpy()
    assert (larger == np.kron(np.where(IDS > 0, IDS, -1), np.ones((2, 2), int))).all()
    smaller = read(tmp_path, 2, 2).instance.numpy()  # centres at columns 1 and 3, rows 0.75 and 2.25
    assert smaller.tolist() == [[-1, 7], [2, -1]]


def test_pixels_without_a_segment_are_background_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    for unlabelled, kind in (("background", 0), ("unknown", VOID)):
        masks = find_masks(tmp_path, ["a"], DataConfig(unlabelled=unlabelled))
        assert masks is not None
        segments = masks.of("a", WIDTH, HEIGHT)()
        assert (segments.semantic.numpy() == np.where(IDS > 0, 1, kind)).all()
    with pytest.raises(ConfigError, match=r"data\.unlabelled"):
        DataConfig(unlabelled="nothing")


def test_the_folder_may_be_named_or_left_out(tmp_path: Path) -> None:
    for folder in ("masks", "mine"):
        (tmp_path / folder).mkdir()
    write_grey8(tmp_path / "mine" / "a")
    masks = find_masks(tmp_path, ["a"], DataConfig(segments="mine"))
    assert masks is not None
    assert masks.paths["a"].parent.name == "mine"
    assert find_masks(tmp_path, ["a"], DataConfig(segments="none")) is None
    with pytest.raises(SceneError, match="no such folder"):
        find_masks(tmp_path, ["a"], DataConfig(segments="there"))
    (tmp_path / "masks").rmdir()
    assert find_masks(tmp_path, ["a"], AUTO) is None


def test_segments_that_are_named_replace_those_of_the_layout(tmp_path: Path) -> None:
    room = write_room(tmp_path / "room", width=4, height=3)
    (room / "mine").mkdir()
    for frame in (room / "color").iterdir():
        write_grey8(room / "mine" / frame.stem)
    own, mine = (load_scene(room, DataConfig(segments=name)).train[0] for name in ("auto", "mine"))
    assert mine.segments is not None
    assert own.segments is not None
    assert (mine.segments().instance.numpy() == np.where(IDS > 0, IDS, -1)).all()
    assert mine.truth is not None
    assert not torch.equal(mine.segments().instance, own.segments().instance)
    assert load_scene(room, DataConfig(segments="none")).train[0].segments is None


# --- Damage -----------------------------------------------------------------------------------------------------------


def read(root: Path, width: int = WIDTH, height: int = HEIGHT) -> Segments:
    masks = find_masks(root, ["a"], AUTO)
    assert masks is not None
    reader = masks.of("a", width, height)
    assert reader is not None
    return reader()


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple:
        return (print, ("run",))


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IDS.astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def npy_of(header: str) -> bytes:
    """An array of zeros with a header that numpy did not write."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(48)


def surely(**fields: object) -> bytes:
    return json.dumps([{"segmentation": {"size": [3, 4], "counts": [0, 12]}} | fields]).encode()


def ptz(**fields: object) -> bytes:
    content = {
        "mask": torch.from_numpy(IDS),
        "segments": [{"id": 7, "isthing": True, "category_id": 5}],
    } | fields
    return gzip.compress(torch_bytes(content))


def rle(**fields: object) -> bytes:
    return json.dumps([{"segmentation": {"size": [3, 4], "counts": [0, 12]} | fields}]).encode()


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "a torn PNG": ("a.png", png(IDS.astype(np.uint8))[:40], "broken image"),
    "a JPEG called PNG": ("a.png", jpeg(), "which blurs ids"),
    "text called PNG": ("a.png", b"hello", "not a PNG"),
    "a PNG of another shape": (
        "a.png",
        png(np.zeros((9, 40), np.uint8)),
        "another shape than the photo's 4x3",
    ),
    "grey with alpha": ("a.png", png(np.zeros((3, 4, 2), np.uint8)), "pixels of mode LA"),
    "JSON that is none": ("a.json", b"[{", "not valid JSON"),
    "JSON of a number": ("a.json", b"3", "no list of masks"),
    "JSON without segmentation": ("a.json", b'[{"bbox": [1, 2, 3, 4]}]', "no list of masks"),
    "polygons": ("a.json", b'[{"segmentation": [[1, 2, 3, 4]]}]', "not polygons"),
    "run lengths cut short": ("a.json", rle(counts=[3, 4]), "run lengths of 7 pixels in a mask of 12"),
    "negative run lengths": ("a.json", rle(counts=[-3, 15]), "no counts"),
    "run lengths of text": ("a.json", rle(counts="\x01\x02"), "with the letter"),
    "a string that ends within": ("a.json", rle(counts="T"), "end within a number"),
    "a huge mask": ("a.json", rle(size=[2**20, 2**20]), f"at most {MAX_PIXELS} pixels"),
    "a negative size": ("a.json", rle(size=[-3, -4]), "wanted [H W]"),
    "a size of text": ("a.json", rle(size=["3", "4"]), "without size and counts"),
    "surer than sure": (
        "a.json",
        json.dumps([{"segmentation": {"size": [3, 4], "counts": [12]}, "predicted_iou": "high"}]).encode(),
        "predicted_iou is 'high'",
    ),
    "surer than any float": ("a.json", surely(predicted_iou=10**400), "wanted a finite number"),
    "sure by nan": ("a.json", surely(stability_score=float("nan")), "stability_score is nan"),
    "run lengths of thousands of digits": (
        "a.json",
        rle(counts=[int("9" * 4300)] * 2),
        "run lengths that are no counts",
    ),
    "masks of two sizes": (
        "a.json",
        json.dumps([{"segmentation": {"size": [one, 4], "counts": [4 * one]}} for one in (3, 6)]).encode(),
        "masks of 2 sizes",
    ),
    "masks that cover more than any photo": (
        "a.json",
        json.dumps([{"segmentation": {"size": [8192, 8192], "counts": [0, 2**26]}}] * 65).encode(),
        "65 masks of 8192x8192 pixels",
    ),
    "npy of a header that does not end": ("a.npy", npy_of("((("), "not a plain .npy"),
    "npy of more pixels than there are numbers": (
        "a.npy",
        npy_of("{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999, 4)}\n"),
        "not a plain .npy",
    ),
    "npy of several ids in one mask": ("a.npy", npy(np.stack([IDS, IDS])), "several numbers in one mask"),
    "npy of masks of nan": ("a.npy", npy(np.full((2, 3, 4), np.nan)), "several numbers in one mask"),
    "npy of soft masks": ("a.npy", npy(np.linspace(0, 1, 24).reshape(2, 3, 4)), "several numbers"),
    "a sparse pt": ("a.pt", torch_bytes(torch.eye(4)[:3].to_sparse()), "holds a tensor of torch.float32"),
    "a complex pt": ("a.pt", torch_bytes(torch.zeros(3, 4, dtype=torch.complex64)), "wanted ids [H W]"),
    "a ptz of an endless id": (
        "a.ptz",
        ptz(segments=[{"id": float("inf"), "isthing": True, "category_id": 5}]),
        "no whole numbers",
    ),
    "a ptz of a sparse mask": ("a.ptz", ptz(mask=torch.eye(4)[:3].to_sparse()), "holds a tensor of"),
    "a ptz of a complex mask": (
        "a.ptz",
        ptz(mask=torch.zeros(3, 4, dtype=torch.complex64)),
        "a mask of complex64",
    ),
    "a ptz that repeats one number": (
        "a.ptz",
        ptz(mask=torch.zeros(1, dtype=torch.uint8).expand(8000, 8000)),
        "more than the file holds",
    ),
    "a pickle called npy": ("a.npy", npy(np.array([Runs()], dtype=object)), "not a plain .npy"),
    "npy of fractions": ("a.npy", npy(IDS + 0.5), "fractions among the ids"),
    "npy of nan": ("a.npy", npy(np.full(IDS.shape, np.nan)), "fractions among the ids"),
    "npy of huge ids": ("a.npy", npy(IDS * 2**40), "ids from 0 to"),
    "npy of one dimension": ("a.npy", npy(IDS.ravel()), "of shape (12,)"),
    "npy of letters": ("a.npy", npy(np.array([["a", "b"]])), "wanted ids [H W]"),
    "npy that promises more": ("a.npy", npy_header((2**20, 2**20)), "not a plain .npy"),
    "a pickle called pt": ("a.pt", pickle.dumps(Runs()), "not a file of tensors"),
    "code in a pt": ("a.pt", torch_bytes(Runs()), "not a file of tensors"),
    "a dict in a pt": ("a.pt", torch_bytes({"a": 1}), "holds dict"),
    "a pt that repeats one number": (
        "a.pt",
        torch_bytes(torch.zeros(1).expand(30000, 30000)),
        "more than the file",
    ),
    "a compressed pt": ("a.pt", zipped(bytes(10**6)), "a compressed archive"),
    "a ptz that is none": ("a.ptz", b"hello", "not a .ptz"),
    "a ptz of something else": ("a.ptz", gzip.compress(torch_bytes({"a": 1})), "wanted a dict with mask"),
    "a ptz of an unknown class": (
        "a.ptz",
        gzip.compress(
            torch_bytes(
                {"mask": torch.from_numpy(IDS), "segments": [{"id": 7, "isthing": True, "category_id": 99}]}
            )
        ),
        "category 99",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_in_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, part = BROKEN[what]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / name).write_bytes(content)
    with pytest.raises(SceneError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    assert str(tmp_path / "masks" / name) in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"annotations": [{"segments_info": []}]}, "not COCO's panoptic format"),
        (
            {"annotations": [{"file_name": "a.png", "segments_info": 3}], "categories": CATEGORIES},
            "not COCO's",
        ),
        (
            {
                "annotations": [{"file_name": "a.png", "segments_info": [{"id": 1, "category_id": 9}]}],
                "categories": CATEGORIES,
            },
            "not COCO's panoptic format (KeyError",
        ),
        (
            {"annotations": [{"file_name": "b.png", "segments_info": []}], "categories": CATEGORIES},
            "not in the annot",
        ),
        *(
            (
                {
                    "annotations": [{"file_name": "a.png", "segments_info": [{"id": id, "category_id": 40}]}],
                    "categories": CATEGORIES,
                },
                "is no whole number of an id",
            )
            for id in (float("inf"), float("nan"), 7.5, -1, 2**31)
        ),
    ],
)
def test_a_broken_coco_file_is_refused(content: dict[str, object], part: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_rgb(tmp_path / "masks" / "a.png")
    (tmp_path / "masks.json").write_text(json.dumps(content))
    with pytest.raises(SceneError, match=part.replace("(", r"\(")):
        read(tmp_path)


@pytest.mark.parametrize("id", ["", "x", "-1", "\u00b2", "9" * 5000])
def test_a_broken_list_of_masks_is_refused(id: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_sam_folder(tmp_path / "masks" / "a")
    (tmp_path / "masks" / "a" / "metadata.csv").write_text(f"id,predicted_iou\n{id},0.9\n", encoding="utf-8")
    with pytest.raises(SceneError, match=r"metadata\.csv: wanted one row with an `id`"):
        read(tmp_path)


def test_masks_of_two_sizes_in_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_sam_folder(tmp_path / "masks" / "a")
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "masks" / "a" / "1.png")
    with pytest.raises(SceneError, match="wanted masks of one size"):
        read(tmp_path)


def test_segments_in_different_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    (tmp_path / "masks" / "b.ptz").write_bytes(ptz())
    with pytest.raises(SceneError, match=r"a\.png and b\.ptz are in different classes"):
        find_masks(tmp_path, ["a", "b"], AUTO)
    assert find_masks(tmp_path, ["a"], AUTO) is not None


def test_two_files_for_one_photo_are_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "a")
    write_npy(tmp_path / "masks" / "a")
    with pytest.raises(SceneError, match="segments of the same photo as"):
        read(tmp_path)


def test_a_link_out_of_the_scene_is_refused_unless_allowed(tmp_path: Path) -> None:
    write_grey8(tmp_path / "secret")
    root = tmp_path / "scene"
    (root / "masks").mkdir(parents=True)
    (root / "masks" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SceneError, match="leads out of the scene folder"):
        find_masks(root, ["a"], AUTO)
    assert find_masks(root, ["a"], DataConfig(allow_outside=True)) is not None


def test_a_link_to_a_panoptic_json_out_of_the_scene_is_refused_unless_allowed(tmp_path: Path) -> None:
    content = {"annotations": [{"file_name": "a.png", "segments_info": []}], "categories": CATEGORIES}
    (tmp_path / "secret.json").write_text(json.dumps(content))
    root = tmp_path / "scene"
    (root / "masks").mkdir(parents=True)
    write_rgb(root / "masks" / "a.png")
    for link in (root / "masks" / "all.json", root / "masks.json"):
        link.symlink_to(tmp_path / "secret.json")
        with pytest.raises(SceneError, match="leads out of the scene folder"):
            find_masks(root, ["a"], AUTO)
        assert find_masks(root, ["a"], DataConfig(allow_outside=True)) is not None
        link.unlink()


def test_a_link_to_a_confidence_out_of_the_scene_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "secret.npz", confidence=SURE)
    root = tmp_path / "scene"
    (root / "masks").mkdir(parents=True)
    write_grey8(root / "masks" / "a")
    (root / "masks" / "a.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(SceneError, match="leads out of the scene folder"):
        find_masks(root, ["a"], AUTO)


def test_a_folder_that_the_user_names_may_lie_anywhere(tmp_path: Path) -> None:
    root = tmp_path / "scene"
    for folder in (root, tmp_path / "mine"):
        folder.mkdir()
    write_grey8(tmp_path / "mine" / "a")
    for name in ("../mine", str(tmp_path / "mine"), str(root / ".." / "mine")):
        assert find_masks(root, ["a"], DataConfig(segments=name)) is not None


def test_names_that_do_not_match_are_shown_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    write_grey8(tmp_path / "masks" / "mask_0001")
    with pytest.raises(SceneError, match=r"photos: frame_1, frame_2; masks: mask_0001"):
        find_masks(tmp_path, ["frame_1", "frame_2"], AUTO)
