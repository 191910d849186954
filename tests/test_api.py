"""The public names: what users import stays where it is."""

import types

import pytest

import gs_lift

PUBLIC = "Camera Config Embeddings Gaussians Instances Scene load_scene fit lift cluster render evaluate"


def test_the_public_names_are_pinned() -> None:
    assert gs_lift.__all__ == PUBLIC.split()


@pytest.mark.parametrize("name", PUBLIC.split())
def test_a_public_name_is_a_type_or_a_function_never_a_module(name: str) -> None:
    value = getattr(gs_lift, name)
    assert callable(value)
    assert not isinstance(value, types.ModuleType)
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = gs_lift.fitt
