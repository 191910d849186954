"""The tiny room and the tiny settings that whole-line tests share."""

from gs_lift.config import Config, load_config

TINY = {"objects": 4, "views": 10, "size": 48, "seed": 1, "noise": "easy"}
"""A room that is ray-traced in a second or two."""

TINY_SETTINGS = [
    "device=cpu",
    "checkpoint_every=20",
    "data.init=auto",
    "fit.steps=60",
    "fit.sh_degree=1",
    "lift.steps=60",
]


def tiny_config() -> Config:
    return load_config(None, TINY_SETTINGS)
