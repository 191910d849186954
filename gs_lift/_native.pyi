"""The extension's types are those of its C++: to a type checker its names are of any type."""

from typing import Any

def __getattr__(name: str) -> Any: ...
