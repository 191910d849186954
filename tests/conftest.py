"""Shapes are checked in every test: jaxtyping's annotations through beartype, before anything imports gs_lift."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("gs_lift", "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of scenes and golden files beside the repository; the test is skipped where there is none."""
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
