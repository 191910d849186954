"""Matches between pairs of images -> points seen by three images or more.

Every match of a feature proposes a point. The proposal that most of the feature's other matches agree with
wins, is refined by Gauss-Newton on the reprojection error, and takes its features away from lesser points.
All sums run in a fixed order: the result is the same on any number of threads.
"""

from dataclasses import dataclass

import numpy as np

from gs_lift.points.features import Features
from gs_lift.points.matching import Rig, directions

MIN_VIEWS = 3
"""Two rays always nearly meet on an epipolar line; the third confirms."""

MIN_ANGLE = 1.0
"""Degrees between a point's outermost ray and its mean ray; under that its depth is a guess."""


@dataclass(frozen=True)
class Tracks:
    """P points and what sees them.

    points [P 3]; errors_px [P] mean reprojection error; views [P] number of observations. Observation k says
    that feature[k], counted over all images, sees point[k].
    """

    points: np.ndarray
    errors_px: np.ndarray
    views: np.ndarray
    point: np.ndarray
    feature: np.ndarray


class _Observations:
    """All features of all images in one table: camera, pixel and ray in the world of each."""

    def __init__(self, rig: Rig, features: list[Features]):
        self.rig = rig
        self.camera = np.repeat(np.arange(len(rig)), [len(f) for f in features])
        self.xy = np.concatenate([f.xy for f in features])
        self.rays = np.concatenate([directions(rig, c, f.xy) for c, f in enumerate(features)])

    def local(self, points: np.ndarray, feature: np.ndarray) -> np.ndarray:
        c = self.camera[feature]
        return np.einsum("nij,nj->ni", self.rig.rotations[c], points) + self.rig.translations[c]

    def residuals(self, points: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel residuals [n 2] and camera coordinates [n 3] of points seen as features."""
        local = self.local(points, feature)
        K = self.rig.K[self.camera[feature]]
        projected = np.einsum("nij,nj->ni", K, local)
        return projected[:, :2] / np.maximum(projected[:, 2:], 1e-9) - self.xy[feature], local

    def errors(self, points: np.ndarray, feature: np.ndarray) -> np.ndarray:
        residuals, local = self.residuals(points, feature)
        return np.where(local[:, 2] > 1e-9, np.linalg.norm(residuals, axis=1), np.inf)


def build_tracks(rig: Rig, features: list[Features], matches: np.ndarray, tolerance_px: float) -> Tracks:
    """Points from matches [M 2] of feature ids counted over all images."""
    seen = _Observations(rig, features)
    proposals, a, b = _propose(seen, matches)
    best, point, feature = _vote(seen, proposals, a, b, tolerance_px)
    points = _refine(seen, proposals[best], point, feature)
    errors = seen.errors(points[point], feature)
    point, feature, errors = _kept(errors < tolerance_px, point, feature, errors)
    mine = _claim(points, point, feature, errors, len(seen.xy))
    point, feature, _ = _kept(mine, point, feature, errors)
    point, feature, _ = _kept(
        np.bincount(point, minlength=len(points))[point] >= MIN_VIEWS, point, feature, feature
    )
    points = _refine(seen, points, point, feature)
    return _finish(seen, points, point, feature, tolerance_px)


def _kept(mask: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array[mask] for array in arrays)


def _propose(seen: _Observations, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The midpoint of each match's two rays, listed under both features; rows sorted by the first feature."""
    a, b = matches[:, 0], matches[:, 1]
    ray_a, ray_b = seen.rays[a], seen.rays[b]
    center_a, center_b = seen.rig.centers[seen.camera[a]], seen.rig.centers[seen.camera[b]]
    cosine, apart = np.einsum("ni,ni->n", ray_a, ray_b), center_b - center_a
    along_a, along_b = np.einsum("ni,ni->n", ray_a, apart), np.einsum("ni,ni->n", ray_b, apart)
    scale = 1 / np.maximum(1 - cosine**2, 1e-12)
    depth_a, depth_b = (along_a - cosine * along_b) * scale, (cosine * along_a - along_b) * scale
    middle = 0.5 * (center_a + depth_a[:, None] * ray_a + center_b + depth_b[:, None] * ray_b)
    good = (depth_a > 0) & (depth_b > 0) & (cosine < np.cos(np.deg2rad(MIN_ANGLE)))
    a, b, middle = _kept(good, a, b, middle)
    first, second, proposals = np.r_[a, b], np.r_[b, a], np.r_[middle, middle]
    order = np.argsort(first, kind="stable")
    return proposals[order], first[order], second[order]


def _vote(
    seen: _Observations, proposals: np.ndarray, a: np.ndarray, b: np.ndarray, tolerance_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The winning proposal of each feature that has enough support, and its observations (point, feature)."""
    counts = np.bincount(a, minlength=len(seen.xy))
    start = np.cumsum(counts) - counts
    each = counts[a]
    proposal = np.repeat(np.arange(len(a)), each)
    voter = np.arange(len(proposal)) - np.repeat(np.cumsum(each) - each, each) + np.repeat(start[a], each)
    # Wider than the final tolerance: a proposal comes from two rays only.
    errors = seen.errors(proposals[proposal], b[voter]) / (1.5 * tolerance_px)
    agrees = errors < 1
    # Ties go to the smaller error.
    votes = np.bincount(proposal, weights=np.where(agrees, 1 + 0.01 * (1 - errors), 0), minlength=len(a))
    order = np.lexsort((-votes, a))
    first = np.ones(len(order), dtype=bool)
    first[1:] = a[order][1:] != a[order][:-1]
    best = order[first]
    best = best[votes[best] >= MIN_VIEWS - 1]
    number = np.full(len(a), -1)
    number[best] = np.arange(len(best))
    counted = agrees & (number[proposal] >= 0)
    point = np.r_[number[proposal[counted]], np.arange(len(best))]
    return best, point, np.r_[b[voter[counted]], a[best]]


def _refine(
    seen: _Observations, points: np.ndarray, point: np.ndarray, feature: np.ndarray, iterations: int = 3
) -> np.ndarray:
    """Gauss-Newton on the squared reprojection error of each point; cameras stay."""
    K, R = seen.rig.K[seen.camera[feature]], seen.rig.rotations[seen.camera[feature]]
    count = len(points)
    for _ in range(iterations):
        residuals, local = seen.residuals(points[point], feature)
        z = np.maximum(local[:, 2], 1e-9)
        # d(K x / z): the rows of K, less the projection times the third one.
        projected = np.einsum("nij,nj->ni", K, local)[:, :2] / z[:, None]
        jacobian = (K[:, :2] - projected[:, :, None] * K[:, 2:3]) / z[:, None, None]
        jacobian = np.einsum("nki,nij->nkj", jacobian, R)
        normal = _sums(point, np.einsum("nki,nkj->nij", jacobian, jacobian).reshape(-1, 9), count)
        right = _sums(point, np.einsum("nki,nk->ni", jacobian, residuals), count)
        system = normal.reshape(-1, 3, 3)
        damping = 1e-6 * np.trace(system, axis1=1, axis2=2)[:, None, None] + 1e-12
        points = points - np.linalg.solve(system + damping * np.eye(3), right[..., None])[..., 0]
    return points


def _sums(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    columns = [np.bincount(owner, weights=column, minlength=count) for column in values.T]
    # Of nothing, bincount makes integers.
    return np.stack(columns, axis=1).astype(np.float64)


def _claim(
    points: np.ndarray, point: np.ndarray, feature: np.ndarray, errors: np.ndarray, features: int
) -> np.ndarray:
    """Which observations stay: a feature goes to the point with the most views, then the smallest error."""
    views = np.bincount(point, minlength=len(points))
    mean = np.bincount(point, weights=errors, minlength=len(points)) / np.maximum(views, 1)
    rank = np.empty(len(points), np.int64)
    rank[np.lexsort((mean, -views))] = np.arange(len(points))
    owner = np.full(features, len(points))
    np.minimum.at(owner, feature, rank[point])
    return owner[feature] == rank[point]


def _finish(
    seen: _Observations, points: np.ndarray, point: np.ndarray, feature: np.ndarray, tolerance_px: float
) -> Tracks:
    """Drop points with large errors or narrow angles, and number the rest anew."""
    count = len(points)
    views = np.bincount(point, minlength=count)
    errors = np.bincount(point, weights=seen.errors(points[point], feature), minlength=count) / np.maximum(
        views, 1
    )
    rays = seen.rays[feature]
    mean = _sums(point, rays, count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    angle = np.arccos(np.clip(np.einsum("ni,ni->n", rays, mean[point]), -1, 1))
    widest = np.zeros(count)
    np.maximum.at(widest, point, np.rad2deg(angle))
    good = (views >= MIN_VIEWS) & (errors < tolerance_px) & (widest > MIN_ANGLE)
    number = np.cumsum(good) - 1
    keep = good[point]
    return Tracks(points[good], errors[good], views[good], number[point[keep]], feature[keep])
