"""Three blobs on a floor, seen by four cameras that number them each in its own way."""

import dataclasses
import functools
import math

import torch
from torch import Tensor

from gs_lift.gaussians import Gaussians
from gs_lift.geometry import look_at
from gs_lift.lifting import LiftConfig, lift
from gs_lift.rendering import blending_weights
from gs_lift.scene import Camera, Scene, View
from gs_lift.segmentation import VOID, Classes, Embeddings, Segments

SIZE = 20
PER_BLOB = 12
CENTERS = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.2]])
FLOOR = 3
BLOB = torch.cat([torch.arange(3).repeat_interleave(PER_BLOB), torch.full((25,), FLOOR)])
"""What each Gaussian belongs to."""
QUICK = LiftConfig(steps=30, pixels=64, semantic_pixels=64)


def blobs(seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    things = CENTERS[BLOB[BLOB < FLOOR]]
    things = things + 0.25 * torch.randn(things.shape, generator=generator)
    x, z = torch.meshgrid(*[torch.linspace(-2, 2, 5)] * 2, indexing="ij")
    means = torch.cat([things, torch.stack([x, torch.ones(5, 5), z], dim=-1).reshape(-1, 3)])
    gaussians = Gaussians.from_points(
        means, torch.rand(means.shape, generator=generator), opacity=0.8, sh_degree=0
    )
    scales = torch.where(BLOB < FLOOR, 0.15, 0.5)
    return dataclasses.replace(gaussians, log_scales=scales.log()[:, None].repeat(1, 3))


def camera(angle: float) -> Camera:
    position = torch.tensor([4 * math.sin(angle), -2.0, 4 * math.cos(angle)], dtype=torch.float64)
    viewmat = look_at(
        position, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, -1, 0], dtype=torch.float64)
    )
    K = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]], dtype=torch.float64)
    return Camera(K, viewmat, SIZE, SIZE)


def segments_of(gaussians: Gaussians, at: Camera, ids: Tensor) -> Segments:
    """The segment ids[b] where blob b has the most weight, VOID where little is covered."""
    weights = blending_weights(gaussians, at, minimum=0.0, backend="reference")
    votes = weights.blend(torch.nn.functional.one_hot(BLOB, 4).float())
    winner = votes.argmax(dim=1)
    semantic = torch.where(votes.sum(dim=1) > 0.5, (winner < FLOOR).long(), VOID)
    instance = torch.where(semantic == 1, torch.cat([ids, torch.tensor([-1])])[winner], -1)
    return Segments(instance.reshape(SIZE, SIZE), semantic.reshape(SIZE, SIZE), torch.ones(SIZE, SIZE))


@functools.cache
def scene_of(*, merged: bool = False) -> Scene:
    """Four views; each numbers the blobs in its own way. `merged`: blobs 0 and 1 always share a segment."""
    gaussians = blobs()
    views = []
    for number in range(4):
        at = camera(number * math.pi / 2 + 0.4)
        ids = torch.randperm(3, generator=torch.Generator().manual_seed(number)) + 10 * number
        if merged:
            ids[1] = ids[0]
        segments = segments_of(gaussians, at, ids)
        views.append(
            View(f"view{number}", at, lambda: torch.zeros(SIZE, SIZE, 3), lambda segments=segments: segments)
        )
    classes = Classes(("floor", "mug"), (False, True))
    return Scene("blobs", tuple(views), (), torch.zeros(0, 3), torch.zeros(0, 3), classes)


def with_segments(scene: Scene, **tensors: Tensor) -> Scene:
    """The scene with parts of the first view's segments replaced."""
    first = scene.train[0]
    changed = dataclasses.replace(first.segments(), **tensors)
    return dataclasses.replace(
        scene, train=(dataclasses.replace(first, segments=lambda: changed), *scene.train[1:])
    )


def lift_quickly(scene: Scene, config: LiftConfig = QUICK, **options: object) -> Embeddings:
    return lift(scene, blobs(), config, backend="reference", **options)


def assert_same(one: Embeddings, other: Embeddings) -> None:
    for left, right in ((one, other), (one.evidence, other.evidence)):
        for name, value in vars(left).items():
            if isinstance(value, Tensor):
                assert torch.equal(value, getattr(right, name)), name
