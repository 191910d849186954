"""The loop: what it learns, what it reports, that stopping and going on changes no byte."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gs_lift.checkpoint import Checkpoints
from gs_lift.errors import ConfigError, GsLiftError, SceneError
from gs_lift.fitting import FitConfig, fit
from gs_lift.fitting.trainer import HELD_OUT
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.rendering import render
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import Classes

SIZE = 20
SHORT = FitConfig(
    steps=24, sh_every=8, densify_from=4, densify_every=5, densify_until=0.9, grow_grad2d=1e-6, max_gaussians=40,
    coarse_until=0.0, evaluate_every=0,
)  # fmt: skip
"""A run in which everything happens: degrees rise at 8, 16 and 24, Gaussians come and go at 5, 10, 15, 20."""


def make_scene(seed: int = 0, views: int = 5, count: int = 12) -> Scene:
    """Blobs seen from a ring of cameras, the last of which is held out; points lie near the blobs' centres."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 3, generator=generator) - 0.5
    colors = torch.rand(count, 3, generator=generator)
    blobs = Gaussians.from_points(centers, colors, sh_degree=0, opacity=0.9)
    blobs = replace(blobs, log_scales=torch.full((count, 3), -2.3))
    angles = torch.linspace(0, 6.28, views + 1)[:-1].double()
    found = tuple(_view(f"view{i}", angle, blobs) for i, angle in enumerate(angles))
    points = centers + 0.03 * torch.randn(count, 3, generator=generator)
    return Scene("blobs", found[:-1], found[-1:], points, colors * 0.8, Classes((), ()))


def _view(name: str, angle: torch.Tensor, blobs: Gaussians) -> View:
    position = torch.stack([2 * angle.cos(), 2 * angle.sin(), 0.7 + 0 * angle])
    up = torch.tensor([0, 0, 1], dtype=torch.float64)
    viewmat = look_at(position, torch.zeros(3, dtype=torch.float64), up)
    K = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(K, viewmat, SIZE, SIZE)
    with torch.no_grad():
        image = render(blobs, camera, backend="reference").colors.clamp(0, 1)
    return View(name, camera, image=lambda: image)


def bytes_of(gaussians: Gaussians) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in gaussians.parameters().items()}


def run(scene: Scene, config: FitConfig = SHORT, backend: str = "reference", **options: object) -> Gaussians:
    return fit(scene, config, backend=backend, **options)  # type: ignore[arg-type]


def stop_after(step: int) -> Callable[[int, dict[str, float]], None]:
    def on_step(now: int, figures: dict[str, float]) -> None:
        if now == step:
            raise KeyboardInterrupt

    return on_step


def test_a_fit_brings_the_held_out_view_closer() -> None:
    seen: list[dict[str, float]] = []
    config = replace(SHORT, steps=80, evaluate_every=20)
    run(make_scene(views=9), config, on_step=lambda step, figures: seen.append(figures))
    psnrs = [figures["psnr"] for figures in seen if "psnr" in figures]
    assert len(psnrs) == 4
    assert psnrs == sorted(psnrs)
    assert psnrs[-1] > 20  # the starting points: 14
    assert seen[-1]["ssim"] > seen[19]["ssim"]
    assert seen[-1]["loss"] < 0.6 * seen[0]["loss"]


def test_of_many_test_views_a_fit_looks_at_some() -> None:
    scene = make_scene(views=9)
    looked: list[str] = []

    def watched(view: View, name: str) -> View:
        return replace(view, name=name, image=lambda: looked.append(name) or view.image())

    many = tuple(watched(scene.test[0], str(number)) for number in range(200))
    run(replace(scene, test=many), replace(SHORT, steps=20, evaluate_every=20))
    assert looked == [str(number) for number in range(0, 200, 4)]  # 50; every third would be 67
    assert len(looked) <= HELD_OUT


def test_figures_come_after_every_step_counted_from_one() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    gaussians = run(make_scene(), on_step=lambda step, figures: seen.append((step, figures)))
    assert [step for step, _ in seen] == list(range(1, SHORT.steps + 1))
    assert all(set(figures) == {"loss", "gaussians"} for _, figures in seen)
    assert seen[-1][1]["gaussians"] == len(gaussians)


def test_gaussians_are_added_up_to_the_cap_only() -> None:
    counts: list[float] = []
    config = replace(SHORT, max_gaussians=15)
    run(make_scene(count=12), config, on_step=lambda step, figures: counts.append(figures["gaussians"]))
    assert counts[0] == 12
    assert max(counts) == 15


def test_more_points_than_allowed_are_thinned() -> None:
    assert len(run(make_scene(count=12), replace(SHORT, steps=0, max_gaussians=7))) == 7


def test_no_steps_give_the_starting_points() -> None:
    scene = make_scene()
    gaussians = run(scene, replace(SHORT, steps=0))
    assert torch.equal(gaussians.means, scene.points)
    assert gaussians.sh_degree == 3


def test_the_degree_of_the_harmonics_rises_one_by_one() -> None:
    gaussians = run(make_scene(), replace(SHORT, steps=17, strategy="mcmc"))  # raised at steps 8 and 16
    assert gaussians.shN.shape[1] == 15
    assert gaussians.shN[:, :8].abs().max() > 0
    assert gaussians.shN[:, 8:].abs().max() == 0


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
@pytest.mark.parametrize("stop", [3, 15, 20])
def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path: Path, strategy: str, stop: int) -> None:
    scene, config = make_scene(), replace(SHORT, strategy=strategy, background="random", reset_every=12)
    whole = run(scene, config, seed=3)
    with pytest.raises(KeyboardInterrupt):
        run(scene, config, seed=3, checkpoints=Checkpoints(tmp_path, every=100), on_step=stop_after(stop))
    # New objects, other global random state: what a fresh process would have.
    torch.manual_seed(stop)
    steps: list[int] = []
    resumed = run(
        scene,
        config,
        seed=3,
        checkpoints=Checkpoints(tmp_path),
        on_step=lambda step, figures: steps.append(step),
    )
    assert steps == list(range(stop + 1, config.steps + 1))
    assert bytes_of(resumed) == bytes_of(whole)


def test_killed_between_checkpoints_gives_the_same_bytes(tmp_path: Path) -> None:
    class Killed(Exception):
        """Unlike KeyboardInterrupt it leaves the loop no time to save."""

    def die(step: int, figures: dict[str, float]) -> None:
        if step == 13:
            raise Killed

    scene = make_scene()
    with pytest.raises(Killed):
        run(scene, checkpoints=Checkpoints(tmp_path, every=7), on_step=die)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000007.pt"]
    assert bytes_of(run(scene, checkpoints=Checkpoints(tmp_path, every=7))) == bytes_of(run(scene))


def test_the_seed_decides_and_global_random_state_does_not() -> None:
    scene = make_scene()
    first = run(scene, seed=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = run(scene, seed=1), run(scene, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert bytes_of(first) == bytes_of(again)
    assert bytes_of(first) != bytes_of(other)


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_threads_change_no_byte(strategy: str) -> None:
    scene, threads, results = make_scene(), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(bytes_of(run(scene, replace(SHORT, strategy=strategy))))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_the_native_rasterizer_stopped_and_resumed_on_two_threads_gives_the_bytes_of_one(
    tmp_path: Path, strategy: str
) -> None:
    scene, config = make_scene(), replace(SHORT, strategy=strategy, coarse_until=0.3, absgrad=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = run(scene, config, backend="cpu")
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            run(scene, config, backend="cpu", checkpoints=Checkpoints(tmp_path), on_step=stop_after(14))
        resumed = run(scene, config, backend="cpu", checkpoints=Checkpoints(tmp_path))
    finally:
        torch.set_num_threads(threads)
    assert bytes_of(resumed) == bytes_of(whole)


def test_half_size_photos_cost_the_result_little() -> None:
    scene, psnrs = make_scene(), []
    for share in (0.0, 0.5):
        config = replace(SHORT, steps=40, evaluate_every=40, coarse_until=share, grow_grad2d=1e-4)
        run(
            scene, config, on_step=lambda step, figures: psnrs.extend([figures["psnr"]] if step == 40 else [])
        )
    assert psnrs[1] > psnrs[0] - 1


def test_photos_are_read_once() -> None:
    scene, reads = make_scene(), itertools.count()

    def counted(view: View) -> View:
        return replace(view, image=lambda: (next(reads), view.image())[1])

    run(replace(scene, train=tuple(counted(view) for view in scene.train)))
    assert next(reads) == len(scene.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(0, 3), "colors": torch.zeros(0, 3)}, "no points to start from"),
        ({"points": torch.full((12, 3), torch.nan)}, "not finite"),
        ({"train": ()}, "no training views"),
    ],
)
def test_a_scene_that_cannot_be_fitted_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        run(replace(make_scene(), **change))  # type: ignore[arg-type]


def test_a_photo_of_another_size_is_refused_by_name() -> None:
    scene = make_scene()
    wrong = replace(scene.train[0], image=lambda: torch.zeros(SIZE, SIZE + 1, 3))
    with pytest.raises(SceneError, match="view0: an image of"):
        run(replace(scene, train=(wrong, *scene.train[1:])))


def test_a_diverging_fit_says_so() -> None:
    with pytest.raises(GsLiftError, match="learning rates"):
        run(make_scene(), replace(SHORT, sh0_lr=1e38))


def test_one_point_and_one_view_are_enough() -> None:
    scene = make_scene(count=12)
    scene = replace(scene, train=scene.train[:1], points=scene.points[:1], colors=scene.colors[:1])
    assert len(run(scene)) >= 1


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path: Path) -> None:
    scene = make_scene()
    run(scene, checkpoints=Checkpoints(tmp_path, every=20))
    with pytest.raises(GsLiftError, match=r"step 20, after fit\.steps=10"):
        run(scene, replace(SHORT, steps=10), checkpoints=Checkpoints(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1}, {"sh_degree": 4}, {"sh_every": 0}, {"ssim_weight": 1.5}, {"background": "blue"},
        {"initial_opacity": 1.0}, {"means_lr": float("nan")}, {"means_lr_end": 0.0}, {"strategy": "magic"},
        {"max_gaussians": 0}, {"densify_every": 0},
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        run(make_scene(), replace(SHORT, **change))  # type: ignore[arg-type]
