"""Readings: how old they are, and what counts where nothing was told."""

from __future__ import annotations

import pytest

from aider_guard.core.readings import ContextRow, LastRequest, ModelPresence, age_seconds


@pytest.mark.parametrize(
    ("taken_at", "now", "age"), [(10.0, 12.5, 2.5), (10.0, 10.0, 0.0), (10.0, 9.0, 0.0)]
)
def test_the_age_of_a_reading(taken_at: float, now: float, age: float) -> None:
    """Never negative, though a reading may come with a later time than the guard's."""
    assert age_seconds(taken_at, now) == age


def test_a_request_is_used_with_its_answer() -> None:
    """The next prompt begins with both; without an answer it is the prompt alone."""
    assert LastRequest(500, 70).used_tokens == 570
    assert LastRequest(500).used_tokens == 500


def test_what_is_not_told() -> None:
    """A measured request is sure, a model was seen nowhere yet, and a file in the chat may be edited."""
    assert LastRequest(500).is_sure
    presence = ModelPresence()
    assert (presence.listed, presence.due, presence.loaded_again) == (False, False, False)
    assert not ContextRow("file", "a.py", 12).read_only
