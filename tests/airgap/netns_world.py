"""A guard that serves one network namespace from its loop, and programs that run inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from airgap.layers import open_gap
from airgap.seccomp_world import World

from aider_guard.airgap.gap import UNKNOWN_PROGRAM, ProgramFinder
from aider_guard.core.egress import Place
from aider_guard.loop import Loop


@contextlib.contextmanager
def world(
    allowed: Sequence[Place] = (), programs: ProgramFinder = UNKNOWN_PROGRAM
) -> Iterator[World]:
    """A gap that is served."""
    with Loop() as loop, open_gap("netns", allowed) as gap:
        here = World(cast("Any", gap), loop)
        gap.watch(loop, here.attempts.append, programs)
        yield here
