"""gsplat's packed intermediate results: rows of the visible Gaussians only, of all cameras one after the other."""

from typing import Any

from torch import Tensor

PER_GAUSSIAN = ("means2d", "radii", "depths", "conics", "opacities")
"""Entries of info that are [C N ...], and [nnz ...] when packed."""


def pack(info: dict[str, Any]) -> dict[str, Any]:
    """The same with PER_GAUSSIAN packed, camera after camera by ascending id, and their camera_ids, gaussian_ids [nnz].

    The packed means2d is a leaf: backward adds the gradient of the visible to its `grad`, and sets its `absgrad` where
    that of the unpacked means2d is set.
    """
    camera_ids, gaussian_ids = (info["radii"] > 0).all(dim=-1).nonzero(as_tuple=True)
    whole = info["means2d"]
    packed = {name: info[name][camera_ids, gaussian_ids] for name in PER_GAUSSIAN}
    means2d = packed["means2d"] = packed["means2d"].detach().requires_grad_(whole.requires_grad)

    def keep(gradient: Tensor) -> None:
        visible = gradient[camera_ids, gaussian_ids]
        means2d.grad = visible if means2d.grad is None else means2d.grad + visible
        absolute = getattr(whole, "absgrad", None)
        if absolute is not None:
            setattr(means2d, "absgrad", absolute[camera_ids, gaussian_ids])  # noqa: B010 - as gsplat names it

    if whole.requires_grad:
        whole.register_hook(keep)
    return info | packed | {"camera_ids": camera_ids, "gaussian_ids": gaussian_ids}
