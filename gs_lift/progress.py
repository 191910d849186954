"""What a loop tells whoever started it."""

from collections.abc import Callable

OnStep = Callable[[int, dict[str, float]], None]
"""Called as on_step(step, figures) after each finished step, from 1; it may raise KeyboardInterrupt to stop there."""
