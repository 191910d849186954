"""Feature matching between images whose cameras are known.

A point and the centres of two cameras span its epipolar plane. All such planes of a pair contain the
baseline, so a plane is an angle about it, and a feature's match has the same angle: candidates are found by
sorting angles, and descriptors decide among few. This gives more and cleaner matches than comparing all
descriptors and then estimating what the cameras say already.
"""

from dataclasses import dataclass

import numpy as np

from gs_lift.points.features import Features

RATIO = 0.8
"""A match's descriptor angle over that of the next best candidate (Lowe 2004, section 7.1)."""

MAX_DESCRIPTOR_ANGLE = 0.7
"""Radians; COLMAP's default `max_distance`."""

MEASURED = 512
"""Cameras by which it is judged what is far: all pairs of thousands would take hundreds of MB."""


@dataclass(frozen=True)
class Rig:
    """Cameras as arrays: K [C 3 3]; rotations [C 3 3], translations [C 3] of the viewmats; centers [C 3]."""

    K: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    centers: np.ndarray

    def __len__(self) -> int:
        return len(self.K)


def scales(rig: Rig) -> tuple[float, float]:
    """The median distance of two cameras, and the median angle between their axes in radians: over all pairs, of at
    most MEASURED cameras."""
    step = -(-len(rig) // MEASURED)
    apart, turned = _apart(rig, slice(None, None, step), slice(None, None, step))
    return max(float(np.median(apart)), 1e-9), max(float(np.median(turned)), 1e-9)


def differences(rig: Rig, own: slice, scales: tuple[float, float]) -> np.ndarray:
    """How far the cameras `own` are from all C, [O C]: in place and in direction, each in units of its scale."""
    apart, turned = _apart(rig, own, slice(None))
    return apart / scales[0] + turned / scales[1]


def _apart(rig: Rig, own: slice, others: slice) -> tuple[np.ndarray, np.ndarray]:
    """[O C] Distances and angles."""
    axes = rig.rotations[:, 2]
    apart = np.linalg.norm(rig.centers[own][:, None] - rig.centers[others][None], axis=-1)
    return apart, np.arccos(np.clip(np.einsum("ci,di->cd", axes[own], axes[others]), -1, 1))


def choose_pairs(rig: Rig, neighbours: int) -> list[tuple[int, int]]:
    """Pairs (i < j) of each camera with its `neighbours` nearest in place and direction."""
    apart = np.linalg.norm(rig.centers[:, None] - rig.centers[None], axis=-1)
    # Two photos from one place give no depth.
    cost = differences(rig, slice(None), scales(rig))
    cost = np.where(apart <= 1e-6 * float(apart.max()), np.inf, cost)
    order = np.argsort(cost, axis=1, kind="stable")[:, :neighbours]
    pairs = {
        (min(i, int(j)), max(i, int(j))) for i in range(len(rig)) for j in order[i] if cost[i, j] < np.inf
    }
    return sorted(pairs)


def match_pair(
    rig: Rig, i: int, j: int, features: list[Features], tolerance_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of matching features in images i and j: mutually best among those on the same epipolar plane."""
    empty = np.zeros(0, np.int64)
    if not len(features[i]) or not len(features[j]):
        return empty, empty
    baseline = rig.centers[j] - rig.centers[i]
    baseline = baseline / np.linalg.norm(baseline)
    angle_i, slack_i, along_i = _pencil(rig, i, features[i].xy, baseline, tolerance_px)
    angle_j, slack_j, along_j = _pencil(rig, j, features[j].xy, baseline, tolerance_px)
    a, b = _windows(angle_i, angle_j, slack_i + np.median(slack_j))
    # In front of both cameras rays converge: the second sees the point at a wider angle to the baseline.
    keep = (np.abs(angle_i[a] - angle_j[b]) < slack_i[a] + slack_j[b]) & (along_i[a] > along_j[b])
    a, b = a[keep], b[keep]
    cosines = np.einsum("nd,nd->n", features[i].descriptors[a], features[j].descriptors[b])
    angles = np.arccos(np.clip(cosines, -1, 1))
    best_a, next_a = _best_two(a, angles, len(features[i]))
    best_b, next_b = _best_two(b, angles, len(features[j]))
    mutual = best_a[best_a >= 0]
    mutual = mutual[best_b[b[mutual]] == mutual]
    rival = np.minimum(next_a[a[mutual]], next_b[b[mutual]])
    mutual = mutual[(angles[mutual] < MAX_DESCRIPTOR_ANGLE) & (angles[mutual] < RATIO * rival)]
    return a[mutual], b[mutual]


def directions(rig: Rig, c: int, xy: np.ndarray) -> np.ndarray:
    """Unit rays in the world through pixels of camera c."""
    local = np.einsum("ij,nj->ni", np.linalg.inv(rig.K[c]), np.c_[xy, np.ones(len(xy))])
    rays = np.einsum("ij,ni->nj", rig.rotations[c], local)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _pencil(
    rig: Rig, c: int, xy: np.ndarray, baseline: np.ndarray, tolerance_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each feature's angle about the baseline, the tolerance in it, and the cosine to the baseline."""
    rays = directions(rig, c, xy)
    side = np.cross(baseline, np.eye(3)[np.argmin(np.abs(baseline))])
    side /= np.linalg.norm(side)
    # einsum, not @: the result must not depend on a BLAS's threads.
    x, y, along = np.einsum("ni,ki->kn", rays, np.stack([side, np.cross(baseline, side), baseline]))
    off_axis = np.maximum(np.hypot(x, y), 1e-2)
    return np.arctan2(y, x), tolerance_px / rig.K[c, 0, 0] / off_axis, along


def _windows(angles: np.ndarray, others: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (a, b) with |angles[a] - others[b]| <= slack[a]."""
    order = np.argsort(others, kind="stable")
    low = np.searchsorted(others[order], angles - slack)
    high = np.searchsorted(others[order], angles + slack, side="right")
    counts = high - low
    a = np.repeat(np.arange(len(angles)), counts)
    within = np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts)
    return a, order[np.repeat(low, counts) + within]


def _best_two(owner: np.ndarray, angles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each owner the row of its smallest angle (-1 = none), and its second smallest angle (pi = none)."""
    order = np.lexsort((angles, owner))
    first = np.ones(len(order), dtype=bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    second = np.zeros(len(order), dtype=bool)
    second[1:] = first[:-1] & ~first[1:]
    best, runner_up = np.full(count, -1), np.full(count, np.pi)
    best[owner[order][first]] = order[first]
    runner_up[owner[order][second]] = angles[order[second]]
    return best, runner_up
