"""The checks before the first prompt: facts in, findings out. Nothing here reads or changes anything."""

from aider_guard.launch.preflight.checks import examine

__all__ = ["examine"]
