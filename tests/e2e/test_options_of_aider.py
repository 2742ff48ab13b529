"""The options of a real Aider, as its parser's source has them."""

from __future__ import annotations

import pytest

from aider_guard import config
from aider_guard.completion import options_in
from aider_guard.demo.layout import Rig

pytestmark = pytest.mark.e2e


def options(rig: Rig) -> set[str]:
    (source,) = rig.aider.glob("lib/python3*/site-packages/aider/args.py")
    return set(options_in(source.read_text(encoding="utf-8")))


def test_all_are_found(rig: Rig) -> None:
    """Those with a ``--no-`` in both forms."""
    assert len(options(rig)) > 150
    assert {"--model", "--yes-always", "--auto-commits", "--no-auto-commits"} <= options(rig)


def test_none_is_taken_for_one_of_ours_misspelt(rig: Rig) -> None:
    """Or a call without a ``--`` would be refused."""
    ours = [*(f"--{name}" for name in config.SETTINGS), "--show"]
    assert [name for name in sorted(options(rig)) if config.nearest(name, ours)] == []
