"""Checkpoints of nerfstudio's splatfacto (`nerfstudio_models/step-000029999.ckpt`).

"pipeline" holds `_model.gauss_params.` means [N 3], quats [N 4] (wxyz), scales [N 3] (logarithms), opacities [N 1]
(logits), features_dc [N 3] and features_rest [N K-1 3]; of degree 0, features_dc are logits of colours. The first
splatfacto had `_model.` alone before the names.

nerfstudio trains in a world of its own, turned and scaled: point = scale (transform (x, 1)), which
dataparser_transforms.json tells. There x is a place in the data's original frame, COLMAP's: where transforms.json has
an applied_transform, its cameras are that much away, and the Gaussians follow (nerfstudio_dataparser.py, whose
dataparser_transform is transform_matrix @ applied_transform). config.yml is never read: it is YAML that names Python
objects.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gs_lift.errors import SplatError
from gs_lift.gaussians import Gaussians
from gs_lift.geometry import SH_C0
from gs_lift.splats.checkpoints import check_values, plain_tensor
from gs_lift.splats.frames import Similarity, moved

log = logging.getLogger(__name__)

PREFIXES = ("_model.gauss_params.", "_model.")
_NAMES = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
LEVELS = 3
"""Folders above the checkpoint in which dataparser_transforms.json is looked for."""


def matches(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("pipeline"), dict)


def read(path: Path, content: Any, applied_transform: Float[Tensor, "4 4"] | None = None) -> Gaussians:
    """The Gaussians of a checkpoint that is loaded, in the data's original frame, or after its applied_transform."""
    pipeline = content["pipeline"]
    prefix = next((one for one in PREFIXES if one + "means" in pipeline), PREFIXES[0])
    if missing := [name for name in _NAMES if prefix + name not in pipeline]:
        raise SplatError(f"{path}: no {prefix}{missing[0]}; wanted a checkpoint of splatfacto")
    tensors = {name: plain_tensor(path, name, pipeline[prefix + name]) for name in _NAMES}
    count = len(tensors["means"])
    rest = tensors["features_rest"]
    terms = rest.shape[1] if rest.ndim == 3 else -1
    rows = {"means": [3], "quats": [4], "scales": [3], "opacities": [1], "features_dc": [3]}
    rows["features_rest"] = [terms, 3]
    for name, row in rows.items():
        if list(tensors[name].shape) != [count, *row] or count == 0:
            raise SplatError(
                f"{path}: {name} has the shape {list(tensors[name].shape)}; wanted {[count, *row]}"
            )
    if terms not in (0, 3, 8, 15, 24):
        raise SplatError(
            f"{path}: features_rest has {terms} terms; wanted 0, 3, 8, 15 or 24 (degrees 0 to 4)"
        )
    check_values(path, tensors)
    sh0 = tensors["features_dc"] if terms else (tensors["features_dc"].sigmoid() - 0.5) / SH_C0
    gaussians = Gaussians(
        means=tensors["means"],
        quats=tensors["quats"],
        log_scales=tensors["scales"],
        logit_opacities=tensors["opacities"][:, 0],
        sh0=sh0[:, None],
        shN=rest,
    )
    return moved(gaussians, _trained_in(path, applied_transform).inverse)


def _trained_in(path: Path, applied_transform: Float[Tensor, "4 4"] | None) -> Similarity:
    """From the data's original frame, or that of its cameras after applied_transform, to where nerfstudio trained."""
    folders = list(path.resolve().parents)[:LEVELS]
    file = next((one for folder in folders if (one := folder / "dataparser_transforms.json").is_file()), None)
    if file is None:
        raise SplatError(
            f"{path}: no dataparser_transforms.json in the {LEVELS} folders above; nerfstudio writes it beside "
            "nerfstudio_models, and without it the splat lies elsewhere than the cameras"
        )
    try:
        content = json.loads(file.read_text())
        matrix = torch.tensor(content["transform"], dtype=torch.float64)
        scale = float(content["scale"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SplatError(
            f"{file}: wanted transform and scale ({' '.join(str(error).split())[:80]})"
        ) from None
    if (
        matrix.shape != (3, 4)
        or not bool(matrix.isfinite().all())
        or not (math.isfinite(scale) and scale > 0)
    ):
        raise SplatError(f"{file}: wanted a transform of 3 x 4 finite numbers and a scale over 0")
    rotation: Tensor = matrix[:, :3]
    if float((rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max()) > 1e-3:
        raise SplatError(f"{file}: the transform is no rotation with a translation")
    translation = matrix[:, 3]
    if applied_transform is not None:
        # nerfstudio multiplies the scales and, apart from them, the rigid transforms.
        applied_scale = float(torch.linalg.det(applied_transform[:3, :3]) ** (1 / 3))
        applied = applied_transform[:3] / applied_scale
        rotation = rotation @ applied[:, :3].T
        translation = translation - rotation @ applied[:, 3]
        scale /= applied_scale
    return Similarity(rotation, scale * translation, scale)
