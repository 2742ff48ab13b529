"""Who may trace the guard, read its memory, or take its descriptors (PR_SET_DUMPABLE, prctl(2))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from aider_guard.airgap import kernel

# linux/prctl.h
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4


@contextlib.contextmanager
def by_nobody() -> Iterator[None]:
    """Nobody else meanwhile, not even with the same user's rights; root may.

    Without it a program inside could, where Yama does not forbid it, have the guard answer as it likes.
    """
    before = _prctl(_PR_GET_DUMPABLE, 0)
    _prctl(_PR_SET_DUMPABLE, 0)
    try:
        yield
    finally:
        _prctl(_PR_SET_DUMPABLE, 1 if before == 1 else 0)


def by_the_guard() -> None:
    """In a fork, which has this from the guard: the guard must be able to. execve(2) does the same."""
    _prctl(_PR_SET_DUMPABLE, 1)


def _prctl(what: int, value: int) -> int:
    result: int = kernel.libc().prctl(what, value, 0, 0, 0)
    return result
