import logging
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rooms import STEP_HEIGHT, textured_scene, write_room
from torch import Tensor

from gs_lift.datasets import load_scene
from gs_lift.errors import BackendError, ConfigError, SceneError, TooFewPoints
from gs_lift.geometry import unproject
from gs_lift.points import INITS, initial_points, triangulation
from gs_lift.points.features import Features, extract
from gs_lift.points.frusta import depth_range
from gs_lift.points.matching import Rig, choose_pairs, match_pair
from gs_lift.points.sweep import Photo, fill, sweep
from gs_lift.points.tracks import build_tracks
from gs_lift.points.triangulation import make_rig, most_different
from gs_lift.scene import Scene, View

SPARSE = torch.tensor(
    [[x, y, 0] for x in (-0.6, 0, 0.6) for y in (-0.6, 0, 0.6)] + [[0, 0, STEP_HEIGHT]], dtype=torch.float64
)
"""Points that a sweep of the step may start from."""


@pytest.fixture(scope="module")
def step() -> Scene:
    """A textured floor with a step on it."""
    return textured_scene()


@pytest.fixture(scope="module")
def triangulated(step: Scene) -> tuple[Tensor, Tensor]:
    return initial_points(step, "triangulate", count=5000)


def blank(view: View) -> View:
    return replace(view, image=lambda: torch.full((view.camera.height, view.camera.width, 3), 0.5))


def off_surface(points: Tensor) -> Tensor:
    """Distance of each point to the floor or the step's top, whichever is nearer."""
    return torch.minimum(points[:, 2].abs(), (points[:, 2] - STEP_HEIGHT).abs())


# --- triangulate


def test_triangulated_points_lie_on_the_surfaces(triangulated: tuple[Tensor, Tensor]) -> None:
    points, colors = triangulated
    assert points.dtype == colors.dtype == torch.float32
    assert len(points) == len(colors) == 5000
    distance = off_surface(points)
    # The cameras are 1.6 away with a focal length of 96 px: half a pixel is 8 mm.
    assert float(distance.median()) < 0.008
    # Nearly a third of them are guesses.
    assert float((distance < 0.03).float().mean()) > 0.9
    on_step = (points[:, 2] - STEP_HEIGHT).abs() < 0.03
    assert 0.03 < float(on_step.float().mean()) < 0.5


def test_triangulated_points_have_the_colours_that_are_there(
    step: Scene, triangulated: tuple[Tensor, Tensor]
) -> None:
    points, colors = triangulated
    view = step.train[0]
    local = points.double() @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
    projected = local @ view.camera.K.T
    x, y = (projected[:, :2] / projected[:, 2:]).floor().long().unbind(-1)
    assert view.depth is not None
    inside = (x >= 0) & (y >= 0) & (x < view.camera.width) & (y < view.camera.height)
    depth = view.depth()[y[inside], x[inside]]
    visible = (depth - local[inside, 2]).abs() < 0.01
    difference = (view.image()[y[inside], x[inside]] - colors[inside])[visible].abs().mean()
    # Against random pairs of the same pixels, the texture differs by about 0.15.
    assert float(difference) < 0.05


def test_the_same_bytes_whatever_the_number_of_workers(step: Scene) -> None:
    grays = [photo.gray[0, 0].numpy() for photo in photos_of(step)[:3]]
    for one, other in zip(extract(grays, workers=1), extract(grays, workers=3), strict=True):
        assert one.xy.tobytes() == other.xy.tobytes()
        assert one.descriptors.tobytes() == other.descriptors.tobytes()


def test_the_same_bytes_whatever_the_number_of_threads(step: Scene) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            surfaces, guesses = sweep(photos_of(step)[:3], SPARSE)
            assert len(surfaces) > 1000
            found.append(b"".join(part.numpy().tobytes() for part in (surfaces.points, guesses.points)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_small_count_keeps_triangulated_points_only(
    step: Scene, triangulated: tuple[Tensor, Tensor]
) -> None:
    points, _ = initial_points(step, "triangulate", count=150)
    assert torch.equal(points, triangulated[0][:150])


def test_progress_counts_photos_to_the_announced_total(step: Scene) -> None:
    heard: list[tuple[int, float]] = []
    initial_points(
        step, "triangulate", count=200, on_step=lambda done, figures: heard.append((done, figures["steps"]))
    )
    steps = [done for done, _ in heard]
    assert steps == sorted(set(steps))
    assert steps[-1] == 16  # eight photos searched for features, eight swept
    assert {total for _, total in heard} == {16.0}


def test_plain_photos_cannot_be_triangulated_and_auto_starts_at_random(
    step: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    plain = replace(step, train=tuple(blank(view) for view in step.train))
    with pytest.raises(TooFewPoints, match="step: 0 points triangulated from 8 photos, wanted 100") as caught:
        initial_points(plain, "triangulate", count=200)
    assert "data.init=random" in str(caught.value)
    with caplog.at_level(logging.WARNING, "gs_lift"):
        points, _ = initial_points(plain, "auto", count=200)
    assert "start at random" in caplog.text
    assert torch.equal(points, initial_points(plain, "random", count=200)[0])


def test_wrong_poses_give_no_points(step: Scene) -> None:
    # Each photo gets the camera of the next but two: no three of them agree.
    turned = tuple(replace(view, camera=step.train[(i * 3) % 8].camera) for i, view in enumerate(step.train))
    with pytest.raises(SceneError, match="check the poses"):
        initial_points(replace(step, train=turned), "triangulate")


def test_interrupting_leaves_no_process_and_no_file(step: Scene, tmp_path: Path) -> None:
    def stop(done: int, figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        initial_points(step, "triangulate", workdir=tmp_path / "work", on_step=stop)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    from gs_lift.points.features import WORKER

    for i in range(500):
        np.save(tmp_path / f"gray_{i:06d}.npy", np.random.default_rng(i).random((64, 64), dtype=np.float32))
    worker = subprocess.Popen([sys.executable, str(WORKER), str(tmp_path), "0", "1"], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.close()  # what happens when the parent is killed
    assert worker.wait(timeout=30) == 1


def test_a_failing_worker_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pycolmap that cannot be imported, found before the real one.
    (tmp_path / "pycolmap.py").write_text("raise ImportError('no such library: libthing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"pycolmap stopped with code 1 .*libthing") as caught:
        extract([np.zeros((16, 16), np.float32)], workers=1)
    assert "\n" not in str(caught.value)


def test_sift_puts_pixel_centres_at_one_half() -> None:
    # One Gaussian blob centred on pixel (row 20, column 30), whose centre is at (30.5, 20.5).
    y, x = np.mgrid[:48, :64]
    blob = 0.1 + 0.8 * np.exp(-((x - 30) ** 2 + (y - 20) ** 2) / (2 * 2.5**2))
    (features,) = extract([blob.astype(np.float32)], workers=1)
    nearest = features.xy[np.linalg.norm(features.xy - [30.5, 20.5], axis=1).argmin()]
    assert nearest == pytest.approx([30.5, 20.5], abs=0.1)


# --- the parts of it


def exact_features(scene: Scene, points: np.ndarray, noise_px: float = 0.0) -> list[Features]:
    """Features of known points: each image sees all in another order; point i has its own random descriptor."""
    rng = np.random.default_rng(3)
    descriptors = rng.random((len(points), 128)).astype(np.float32) ** 4
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    features = []
    for view in scene.train:
        order = rng.permutation(len(points))
        camera = view.camera
        local = points[order] @ camera.viewmat[:3, :3].numpy().T + camera.viewmat[:3, 3].numpy()
        projected = local @ camera.K.numpy().T
        xy = projected[:, :2] / projected[:, 2:] + noise_px * rng.standard_normal((len(points), 2))
        features.append(Features(xy, descriptors[order]))
    return features


def photos_of(scene: Scene) -> list[Photo]:
    return [Photo.make(view.image(), view.camera, 640) for view in scene.train]


def test_matches_follow_the_epipolar_planes(step: Scene) -> None:
    points = np.random.default_rng(0).uniform([-0.5, -0.5, 0], [0.5, 0.5, 0.4], (60, 3))
    features = exact_features(step, points)
    rig = make_rig(photos_of(step))
    for i, j in choose_pairs(rig, 2):
        a, b = match_pair(rig, i, j, features, 1.0)
        assert len(a) > 50
        # The same descriptor is the same point.
        assert np.abs(features[i].descriptors[a] - features[j].descriptors[b]).max() == 0


def test_a_look_alike_off_the_epipolar_plane_is_no_rival(step: Scene) -> None:
    points = np.array([[0.0, 0.0, 0.0], [0.4, -0.3, 0.1]])
    features = [
        Features(f.xy, np.ones((2, 128), np.float32) / np.sqrt(128).astype(np.float32))
        for f in exact_features(step, points)
    ]
    first = exact_features(step, points)
    a, b = match_pair(make_rig(photos_of(step)), 0, 1, features, 1.0)
    assert len(a) == 2  # comparing descriptors alone, neither would pass the ratio test
    assert np.abs(first[0].descriptors[a] - first[1].descriptors[b]).max() == 0


def test_images_without_features_match_nothing(step: Scene) -> None:
    empty = Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
    rig = make_rig(photos_of(step))
    features = exact_features(step, np.zeros((1, 3)))
    assert len(match_pair(rig, 0, 1, [empty, features[1]], 1.0)[0]) == 0
    assert len(match_pair(rig, 0, 1, [features[0], empty], 1.0)[0]) == 0


def test_cameras_in_one_place_are_no_pair(step: Scene) -> None:
    one = [photos_of(step)[0]] * 3
    assert choose_pairs(make_rig(one), 5) == []


def test_tracks_recover_exact_points_and_outvote_a_wrong_match(step: Scene) -> None:
    points = np.random.default_rng(1).uniform([-0.5, -0.5, 0], [0.5, 0.5, 0.4], (40, 3))
    features = exact_features(step, points)
    rig = make_rig(photos_of(step))
    first = np.cumsum([0, *(len(f) for f in features)])
    matches = []
    for i, j in choose_pairs(rig, 7):
        a, b = match_pair(rig, i, j, features, 1.0)
        matches.append(np.stack([first[i] + a, first[j] + b], axis=1))
    matches.append(np.array([[0, first[1] + 5], [1, first[2] + 7]]))
    tracks = build_tracks(rig, features, np.concatenate(matches), 1.0)
    assert len(tracks.points) == 40
    nearest = np.linalg.norm(tracks.points[:, None] - points[None], axis=-1).min(axis=1)
    assert nearest.max() < 1e-6
    assert (tracks.views == 8).all()
    assert tracks.errors_px.max() < 1e-3
    assert len(np.unique(tracks.feature)) == len(tracks.feature)


def test_tracks_seen_twice_only_are_dropped(step: Scene) -> None:
    features = exact_features(step, np.zeros((1, 3)))
    rig = make_rig(photos_of(step))
    assert len(build_tracks(rig, features, np.array([[0, 1]]), 1.0).points) == 0
    assert len(build_tracks(rig, features, np.array([[0, 1], [1, 2], [0, 2]]), 1.0).points) == 1
    assert len(build_tracks(rig, features, np.zeros((0, 2), np.int64), 1.0).points) == 0


def test_the_sweep_finds_the_surfaces_from_a_few_points(step: Scene) -> None:
    surfaces, _ = sweep(photos_of(step), SPARSE)
    assert len(surfaces.points) == len(surfaces.colors) > 0.3 * 8 * 96 * 96
    distance = off_surface(surfaces.points)
    assert float(distance.median()) < 0.008
    assert float((distance < 0.03).double().mean()) > 0.95


def test_a_plain_spot_is_guessed_from_its_surroundings(step: Scene) -> None:
    def spotted(view: View) -> View:
        """The same photo, with the floor in the square 0.45 to 0.75 painted grey."""
        assert view.depth is not None
        points = unproject(view.depth().double(), view.camera.K, view.camera.viewmat)
        spot = ((points[..., :2] - 0.6).abs() < 0.15).all(-1)
        image = torch.where(spot[..., None], 0.5, view.image())
        return replace(view, image=lambda: image)

    surfaces, guesses = sweep(photos_of(replace(step, train=tuple(map(spotted, step.train)))), SPARSE)
    inner = [(cloud.points[:, :2] - 0.6).abs().amax(dim=1) < 0.1 for cloud in (surfaces, guesses)]
    assert int(inner[1].sum()) > 10 * int(inner[0].sum())
    guessed = guesses.points[inner[1]]
    assert len(guessed) > 100
    assert float(guessed[:, 2].abs().median()) < 0.03


def test_filling_keeps_what_is_known_and_continues_it() -> None:
    values = torch.arange(7.0).repeat(5, 1)
    known = torch.zeros(5, 7, dtype=torch.bool)
    known[:, [0, 1, 5, 6]] = True
    filled = fill(torch.where(known, values, 1e9), known)
    assert torch.equal(filled[known], values[known])
    assert (filled[:, 2:5] > 0).all()
    assert (filled[:, 2:5] < 6).all()
    assert (filled[:, 4] > filled[:, 2]).all()
    one = torch.zeros(5, 7, dtype=torch.bool)
    one[3, 2] = True
    assert torch.allclose(fill(values, one), torch.full((5, 7), 2.0))
    assert torch.equal(fill(values, torch.ones(5, 7, dtype=torch.bool)), values)


def test_the_sweep_of_photos_without_common_points_is_empty(step: Scene) -> None:
    behind = torch.tensor([[0.0, 0.0, 50.0]], dtype=torch.float64)
    for cloud in sweep(photos_of(step), behind):
        assert cloud.points.shape == cloud.colors.shape == (0, 3)


def test_large_photos_are_reduced_and_keep_their_rays(step: Scene) -> None:
    view = step.train[0]
    photo = Photo.make(view.image()[:72], replace(view.camera, height=72), 48)
    assert photo.colors.shape == (3, 36, 48)
    assert photo.gray.shape == (1, 1, 36, 48)
    assert photo.camera.K[0].tolist() == pytest.approx((view.camera.K[0] / 2).tolist())


def test_most_different_views_are_spread(step: Scene) -> None:
    rig = make_rig(photos_of(step))
    assert most_different(rig, 8) == list(range(8))
    assert most_different(rig, 2) == [0, 4]  # on a ring of eight: the opposite one
    assert most_different(rig, 4) == [0, 2, 4, 6]


@pytest.mark.parametrize("seed", [0, 1])
def test_of_many_views_no_table_of_all_pairs_is_made(seed: int) -> None:
    print(f"seed {seed}")
    rig = random_rig(3000, seed)
    tracemalloc.start()
    chosen = most_different(rig, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(chosen)) == 20
    assert peak < 8 * 3000**2 / 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_most_different_views_are_each_the_farthest_from_all_before(seed: int) -> None:
    print(f"seed {seed}")
    rig = random_rig(60, seed)
    axes = rig.rotations[:, 2]
    apart = np.array([[np.linalg.norm(a - b) for b in rig.centers] for a in rig.centers])
    turned = np.array([[np.arccos(np.clip(np.dot(a, b), -1, 1)) for b in axes] for a in axes])
    difference = apart / np.median(apart) + turned / np.median(turned)
    wanted = [0]
    while len(wanted) < 15:
        wanted.append(int(difference[wanted].min(axis=0).argmax()))
    assert most_different(rig, 15) == sorted(wanted)


def random_rig(count: int, seed: int) -> Rig:
    rng = np.random.default_rng(seed)
    rotations = np.linalg.qr(rng.standard_normal((count, 3, 3)))[0]
    centers = rng.standard_normal((count, 3))
    return Rig(
        np.eye(3)[None].repeat(count, axis=0),
        rotations,
        -np.einsum("cij,cj->ci", rotations, centers),
        centers,
    )


# --- depth, points, random, auto


def test_depth_maps_become_points_on_the_surfaces(step: Scene) -> None:
    points, colors = initial_points(step, "depth", count=500)
    assert points.shape == colors.shape == (500, 3)
    assert float(off_surface(points).max()) < 1e-5


def test_depth_takes_what_there_is_and_skips_what_has_none(tmp_path: Path) -> None:
    scene = load_scene(write_room(tmp_path / "r"))
    assert len(initial_points(scene, "depth", count=10_000)[0]) == 4 * 8 * 12
    holes = replace(
        scene.train[0],
        depth=lambda: torch.zeros(8, 12).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(2.0)),
    )
    points, colors = initial_points(replace(scene, train=(holes,)), "depth", count=10)
    assert points.shape == (1, 3)
    assert colors[0].tolist() == scene.train[0].image()[2, 3].tolist()


def test_scenes_without_depth(tmp_path: Path) -> None:
    scene = load_scene(write_room(tmp_path / "r", maps=False))
    with pytest.raises(
        SceneError, match=r"r: no depth maps; use data\.init=triangulate or data\.init=random"
    ):
        initial_points(scene, "depth")
    empty = replace(
        scene, train=tuple(replace(view, depth=lambda: torch.zeros(8, 12)) for view in scene.train)
    )
    with pytest.raises(SceneError, match="depth maps are empty"):
        initial_points(empty, "depth")


def test_random_points_lie_in_a_frustum_between_near_and_far(step: Scene) -> None:
    points, colors = initial_points(step, "random", count=400)
    near, far = depth_range(step)
    # The cameras are sqrt(0.6^2 + 1.5^2) = 1.6 from what they look at.
    assert near < 1.6 < far
    seen = torch.zeros(len(points), dtype=torch.bool)
    for view in step.train:
        local = points.double() @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
        projected = local @ view.camera.K.T
        xy = projected[:, :2] / projected[:, 2:]
        depth_fits = (local[:, 2] > near - 1e-4) & (local[:, 2] < far + 1e-4)
        seen |= depth_fits & (xy > -0.01).all(1) & (xy < 96.01).all(1)
    assert seen.all()
    assert ((colors >= 0.4) & (colors <= 0.6)).all()


def test_random_points_for_cameras_that_look_outward_or_stand_in_one_place(step: Scene) -> None:
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    outward = tuple(replace(v, camera=replace(v.camera, viewmat=turn @ v.camera.viewmat)) for v in step.train)
    for train in (outward, step.train[:1], (step.train[0],) * 3):
        scene = replace(step, train=train)
        near, far = depth_range(scene)
        assert 0 < near < far
        assert torch.isfinite(initial_points(scene, "random", count=50)[0]).all()


@pytest.mark.parametrize("init", ["random", "depth"])
def test_the_seed_decides(step: Scene, init: str) -> None:
    first, again, other = (initial_points(step, init, count=50, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_auto_takes_the_scenes_own_points_first(step: Scene) -> None:
    own = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    scene = replace(step, points=own, colors=own)
    for init in ("auto", "points"):
        assert torch.equal(initial_points(scene, init, count=3)[0], own)


def test_auto_does_not_pass_over_a_broken_photo(tmp_path: Path) -> None:
    room = write_room(tmp_path / "r")
    photo = room / "color" / "00001.png"
    photo.write_bytes(photo.read_bytes()[:-60])
    with pytest.raises(SceneError, match=r"00001\.png: broken image"):
        initial_points(load_scene(room), "auto", count=10)


def test_only_photos_that_are_used_are_decoded(step: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangulation, "FEATURE_VIEWS", 4)
    decoded: list[str] = []

    def noted(view: View) -> View:
        def image() -> Tensor:
            decoded.append(view.name)
            return view.image()

        return replace(view, image=image)

    scene = replace(step, train=tuple(map(noted, step.train)))
    initial_points(scene, "auto", count=50)
    assert decoded == [step.train[i].name for i in (0, 2, 4, 6)]  # every other one of a ring of eight


def test_what_cannot_be_had_is_said(step: Scene) -> None:
    with pytest.raises(SceneError, match="step: has no points"):
        initial_points(step, "points")
    with pytest.raises(
        ConfigError, match=r"no data\.init 'colmap'; one of: auto, depth, points, random, triangulate"
    ):
        initial_points(step, "colmap")
    with pytest.raises(ConfigError, match=r"data\.init_points: got 0"):
        initial_points(step, "random", count=0)
    with pytest.raises(SceneError, match="no training views"):
        initial_points(replace(step, train=()), "random")


def test_inits_are_those_of_the_config_docstring() -> None:
    assert sorted(INITS) == ["auto", "depth", "points", "random", "triangulate"]


def test_triangulation_of_a_shared_room(shared: Path) -> None:
    scene = load_scene(shared / "data" / "messy_sam_50")
    # Every one of so few photos must have neighbours: take those nearest to the first.
    nearest = sorted(
        scene.train, key=lambda v: float((v.camera.position - scene.train[0].camera.position).norm())
    )
    points, _ = initial_points(replace(scene, train=tuple(nearest[:8])), "triangulate", count=10_000)
    assert len(points) == 10_000
    inside = ((points[:, :2].abs() < 2.15).all(1) & (points[:, 2] > -0.05)).double().mean()
    # The room is 4.2 m wide, its floor at 0; nearly a third of the points are guesses.
    assert inside > 0.97
