"""What differs between the versions of Ollama."""

from __future__ import annotations

import pytest

from aider_guard.core.ollama_versions import (
    REFUSES,
    era_of,
    knows_truncate,
    tells_cached,
    tells_window,
)
from aider_guard.core.readings import Unavailable


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ("0.3.14", False),
        ("0.9.3", False),
        ("0.12.5", False),
        ("0.12.6", True),
        ("0.12.10", True),
        ("v0.24.0", True),
        ("0.30.0-rc1", True),
        ("0.30.1", True),
        ("1.0.0", True),
        ("", False),
        ("dev", False),
        ("0.0.0", False),
    ],
)
def test_who_knows_truncate(version: str, knows: bool) -> None:
    """The field came with 0.12.6; an unknown version does not know it."""
    assert knows_truncate(version) is knows
    assert knows_truncate(Unavailable("not told")) is False


# What each version leaves of a window of 1000 tokens: certainly whole, perhaps whole, held, and the marks of a cut.
SIZES: list[tuple[str, int, int, int, set[int]]] = [
    ("0.3.14", 999, 999, 1000, set()),
    ("0.4.0", 1000, 1000, 1000, {1000}),
    ("0.11.11", 1000, 1000, 1000, {1000}),
    ("0.12.5", 1000, 1000, 1000, {1000}),
    ("0.12.6", 1000, 1000, 1000, {1000}),
    ("0.24.9", 1000, 1000, 1000, {1000}),
    ("0.30.0", 999, 1023, 1023, {999}),
    ("0.30.1", 999, 1023, 1023, {999}),
    ("0.30.10", 999, 1023, 1023, {999}),
    ("0.30.11", 999, 1023, 1023, {502, 503}),
    ("v1.0.0-rc1", 999, 1023, 1023, {502, 503}),
    ("dev", 999, 1024, 1023, set()),
    ("7", 999, 1024, 1023, set()),
]


@pytest.mark.parametrize(("version", "whole", "longest", "held", "cut"), SIZES)
def test_what_each_version_does_to_a_window(
    version: str, whole: int, longest: int, held: int, cut: set[int]
) -> None:
    """To the token, on both sides of each change between versions."""
    era = era_of(version)
    assert era.whole_tokens(1000) == whole
    assert era.longest_tokens(1000) == longest
    assert era.held_tokens(1000) == held
    assert era.cut_sizes(1000) == cut


@pytest.mark.parametrize(("window", "held"), [(1, 255), (256, 255), (257, 511), (512, 511)])
def test_runners_take_windows_in_steps_of_256(window: int, held: int) -> None:
    """And keep one place free."""
    assert era_of("0.30.0").held_tokens(window) == held
    assert era_of("0.24.0").held_tokens(window) == window


@pytest.mark.parametrize(("window", "sizes"), [(5, {4}), (6, {5}), (7, {6}), (8, {6, 7})])
def test_half_of_a_small_window_is_at_least_a_token(window: int, sizes: set[int]) -> None:
    assert era_of("0.33.0").cut_sizes(window) == sizes


@pytest.mark.parametrize(
    ("version", "counts"),
    [
        ("0.3.99", False),
        ("0.4.0", True),
        ("0.11.11", True),
        ("0.29.9", True),
        ("0.30.0", False),
        ("0.30.1", True),
        ("0.30.11", True),
        ("dev", False),
    ],
)
def test_who_counts_cached_tokens(version: str, counts: bool) -> None:
    assert era_of(version).counts_cached is counts
    assert REFUSES.counts_cached


@pytest.mark.parametrize(
    ("version", "engine"),
    [
        ("0.3.14", "A"),
        ("0.11.10", "A"),
        ("0.11.11", "B"),
        ("0.12", "B"),
        ("0.24.9", "B"),
        ("0.30", "C"),
        ("1.0.0", "C"),
        ("dev", "C"),
        ("7", "C"),
    ],
)
def test_which_engine_runs_the_models(version: str, engine: str) -> None:
    """An unknown version counts as new; two numbers are a version."""
    assert era_of(version).engine == engine


def test_the_largest_prompt_of_a_server_that_refuses() -> None:
    """One token of the window is for the answer."""
    assert REFUSES.whole_tokens(1000) == 999


def test_whose_answers_say_what_was_cached() -> None:
    """Ollama 0.33.3 and later; a build from source may or may not."""
    versions = ("0.33.2", "0.33.3-rc0", "0.33.3", "0.35.0", "1.0.0", "0.0.0", Unavailable("?"))
    assert [tells_cached(each) for each in versions] == [False, *[True] * 4, False, False]


def test_whose_list_has_windows() -> None:
    """Ollama 0.10 and later."""
    versions = ("0.9.6", "0.10.0", "0.35.0", Unavailable("?"))
    assert [tells_window(each) for each in versions] == [False, True, True, False]
