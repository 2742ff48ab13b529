"""Why a model was loaded again: each piece of evidence has its own words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.core.reloads import LoadedEntry, ReloadEvidence, cause, is_load, stay_seconds

GIB = 1024**3
OURS = LoadedModel("qwen3:8b", "d1", 6 * GIB, 6 * GIB, 8192)
WIDER = LoadedModel("qwen3:8b", "d1", 7 * GIB, 7 * GIB, 32768)
UNTOLD = Unavailable("not told")
OLDER = LoadedModel("qwen3:8b", "d1", 6 * GIB, 6 * GIB, UNTOLD)
OLDER_WIDER = LoadedModel("qwen3:8b", "d1", 7 * GIB, 7 * GIB, UNTOLD)
OTHER = LoadedModel("llama3:70b", "d2", 40 * GIB, 40 * GIB, 4096)
TWIN = LoadedModel("coder:latest", "d3", 6 * GIB, 6 * GIB, 8192)
ENTRY = LoadedEntry(8192, 6 * GIB)
HOUR = 3600.0


def lists(*models: tuple[LoadedModel, ...] | None) -> tuple[ModelsReading | Unavailable, ...]:
    """Lists of Ollama's one after the other; None for one that could not be had."""
    return tuple(
        Unavailable("busy") if one is None else ModelsReading(one, float(at))
        for at, one in enumerate(models)
    )


def why(*models: tuple[LoadedModel, ...] | None, **more: Any) -> str:
    """The cause that is found after these lists."""
    evidence = {"entry": ENTRY, "ours": ("qwen3:8b",), **more}
    return cause(ReloadEvidence("qwen3:8b", lists(*models), **evidence))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (why((OURS,), server_restarted=True), "Ollama itself was started again"),
        (
            why((OURS,), options={"num_ctx": 4096}, options_before={"num_ctx": 8192}),
            "this session asked for it with another window than before (8192, now 4096)",
        ),
        (
            why((OURS,), options={"num_gpu": 9}),
            "this session asked for it with another num_gpu than before (none, now 9)",
        ),
        (
            why((OURS,), options={"stop": "x" * 19}),
            f"this session asked for it with another stop than before (none, now {'x' * 19})",
        ),
        (
            why((OURS,), options={"stop": "x" * 20}),
            "this session asked for it with another stop than before (none, now ?)",
        ),
        (
            why((OURS,), options={"stop": ["x"]}),
            "this session asked for it with another stop than before (none, now ?)",
        ),
        (why((WIDER,)), "another program had asked for it with a window of 32,768 tokens"),
        (
            why((OLDER_WIDER,), entry=LoadedEntry(UNTOLD, 6 * GIB)),
            "another program had asked for it with another window",
        ),
        (
            why((OURS,)),
            "its process had ended at Ollama, by a crash or for lack of memory",
        ),
        (
            why((OLDER,), entry=LoadedEntry(UNTOLD, 6 * GIB)),
            "its process had ended at Ollama, by a crash or for lack of memory",
        ),
        (why((OURS,), (OTHER,)), "llama3:70b took its place, loaded by another program"),
        (why((OURS,), (), (OTHER,)), "llama3:70b took its place, loaded by another program"),
        (why((OURS,), (OTHER,), ()), "llama3:70b took its place, loaded by another program"),
        (
            why((OURS,), (OTHER,), ours=("qwen3:8b", "llama3:70b")),
            "llama3:70b, which this session uses as well, took its place: both do not fit",
        ),
        (
            why((OURS,), (TWIN,), same_file=("coder:latest",)),
            "coder:latest runs from the same file, and only one of the two is loaded at a time",
        ),
        (
            why((OURS, OTHER), (OTHER,), idle_seconds=HOUR, keep_alive_seconds=HOUR / 2),
            "it was not used for 60 minutes, and Ollama let it go",
        ),
        (
            why((OURS,), (), idle_seconds=HOUR / 2, keep_alive_seconds=HOUR / 2),
            "it was not used for 30 minutes, and Ollama let it go",
        ),
        (
            why((OURS,), (), idle_seconds=80.0, keep_alive_seconds=60.0),
            "it was not used for a minute, and Ollama let it go",
        ),
        (
            why((OURS,), (), idle_seconds=120.0, keep_alive_seconds=60.0),
            "it was not used for 2 minutes, and Ollama let it go",
        ),
        (
            why((OURS,), (), keep_alive_seconds=0.5),
            "it was unloaded before its time, by another program or for lack of memory",
        ),
        (
            why((OTHER,), (OTHER,), ours=()),
            "llama3:70b took its place, loaded by another program",
        ),
        (
            why((OTHER,), (), ours=()),
            "llama3:70b took its place, loaded by another program",
        ),
        (
            why((OLDER_WIDER,)),
            "another program had asked for it with another window",
        ),
        (
            why((OLDER,)),
            "its process had ended at Ollama, by a crash or for lack of memory",
        ),
        (
            why((OURS,), (), idle_seconds=10.0),
            "it was unloaded before its time, by another program or for lack of memory",
        ),
        (
            why((OURS,), (), idle_seconds=9 * HOUR, keep_alive_seconds=math.inf),
            "it was unloaded before its time, by another program or for lack of memory",
        ),
        (why(), "it is not known why: Ollama did not list its models before"),
        (why((OURS,), None), "it is not known why: Ollama did not list its models before"),
        (why((), (OURS, OTHER), None, (OTHER,), ours=()), "it was unloaded before its time"),
    ],
)
def test_each_cause_has_its_words(said: str, words: str) -> None:
    """Each case has its own words."""
    assert said.startswith(words)


def test_a_model_that_was_there_beside_it_pushed_nothing_out() -> None:
    """Only a model that came when this one went can have taken its place."""
    assert "place" not in why((OURS, OTHER), (OTHER,), idle_seconds=HOUR)


@pytest.mark.parametrize("name", ["QWEN3:8B", "qwen3:8b"])
def test_names_are_compared_as_ollama_does(name: str) -> None:
    """Two spellings of a name are one model."""
    listed = LoadedModel(name, "d1", 6 * GIB, 6 * GIB, 8192)
    assert why((listed,)).startswith("its process had ended")


@pytest.mark.parametrize(
    ("seconds", "first", "expected"),
    [
        (0.02, None, False),
        (0.5, None, False),
        (0.6, None, True),
        (0.6, 60.0, True),
        (0.4, 60.0, False),
        (0.5, 60.0, False),
        (0.3, 0.6, False),
        (0.35, 0.6, True),
        (0.25, 0.6, False),
        (0.15, 0.1, False),
    ],
)
def test_a_load_takes_time(seconds: float, first: float | None, expected: bool) -> None:
    """Half a second, or half of what the first load took where that is less, but more than a busy machine's noise."""
    assert is_load(seconds, first) is expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90s", 90),
        (90, 90),
        (1.5, 1.5),
        ("-1", math.inf),
        (-1, math.inf),
        ("500ms", 0.5),
        ("250us", 250e-6),
        ("250µs", 250e-6),
        ("250ns", 250e-9),
        (None, 300),
        (True, 300),
        ([], 300),
        (0, 0),
    ],
)
def test_how_long_a_model_stays(value: object, seconds: float) -> None:
    """Every spelling of ``keep_alive`` that Ollama takes."""
    assert stay_seconds(value) == pytest.approx(seconds)


def test_a_context_shift_that_was_switched_is_the_cause() -> None:
    """``shift`` in a request is a flag of the model's process (0.30 and later)."""
    evidence = ReloadEvidence("m", (), options={"shift": False}, options_before={})
    assert cause(evidence) == (
        "this session asked for it with another context shift than before (on, now off)"
    )
