"""Shapes are checked in every test: beartype reads jaxtyping's annotations when gs_lift is imported."""

import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does: see gs_lift/cli.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

import pytest
from jaxtyping import install_import_hook

install_import_hook("gs_lift", "shape_checks.checked")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of scenes and golden files beside the repository; without it the test skips itself."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: scenes and golden files are kept beside the repository")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
