"""What a journal is summed up to, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from view.journals import lines

from aider_guard.core.readings import Unavailable
from aider_guard.core.session_report import SessionReport, number, sum_up


def test_a_journal_is_summed_up() -> None:
    """Each turn with its seconds and tokens, the fill of the main model, what was blocked, and the restart."""
    report = sum_up(lines())
    assert (report.model, report.window_tokens, report.layer) == ("qwen3:8b", 8192.0, "netns")
    assert (report.seconds, len(report.turns), report.restarts, report.deaths) == (720.0, 12, 1, 0)
    first, last = report.turns[0], report.turns[-1]
    assert (first.load_seconds, first.prefill_seconds, first.generation_seconds) == (
        12.0,
        30.0,
        4.0,
    )
    assert (first.prompt_tokens, first.cached_tokens) == (3300.0, 0.0)
    assert first.waited_seconds == 46.0
    assert last.fill_percent == pytest.approx(100 * 6750 / 8192)
    assert [(place.host, place.count) for place in report.blocked] == [
        ("us.i.posthog.com", 14),
        ("/home/me/secret-project/secret.sock", 1),
    ]
    assert [mark.name for mark in report.marks] == ["context_filling", "restart", "reload"]
    assert report.memory[-1].used_bytes == 12 << 30
    assert report.exit_status == 0.0


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"event": name, "t": 1.0, "at": "2026-03-01T10:15:00Z", **facts}


def turns(count: int) -> list[dict[str, Any]]:
    return [event("turn_finished", prefill_seconds=10.0) for _ in range(count)]


COMMIT = event(
    "request_finished",
    role="weak",
    purpose="commit",
    verdict={"outcome": "whole"},
    prefill_seconds=3.0,
)
CUT = event(
    "request_finished",
    role="main",
    purpose="chat",
    verdict={"outcome": "cut"},
    window_tokens=8192,
    prompt_tokens=8191,
    answer_tokens=1,
)
ADVICE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "map": (
        [event("prompt_reread", cause="map", seconds=6.0)] * 2 + turns(4),
        "the repository map changed in 2 of 4 turns: --map-refresh files saves about 3 s a turn",
    ),
    "other program": (
        [event("prompt_reread", cause="other_program", seconds=4.0), *turns(2)],
        "another program used the model in 1 of 2 turns: one of its own saves about 2 s a turn",
    ),
    "reload": (
        [event("reload_seen", load_seconds=5.0, cause="why")] * 2,
        "the model was loaded again 2 times (10 s): why",
    ),
    "overflow": (
        [event("request_refused", reason="overflow")],
        "once a message did not fit the window: fewer files in the chat, or a larger --num-ctx",
    ),
    "full": (
        [event("notice_shown", notice="context_filling")] * 2,
        "the window filled up again and again: fewer files in the chat, or a larger --num-ctx",
    ),
    "cut": (
        [CUT],
        "once the server cut a prompt: --on-overflow refuse holds such a message back",
    ),
    "side work": (
        [COMMIT, *turns(1)],
        (
            "commit messages and summaries took 3 s: a smaller --weak-model that fits beside the main one,"
            " or --no-auto-commits"
        ),
    ),
    "death": (
        [event("offer_restart")],
        "Aider died once: aider-guard doctor shows what may be wrong",
    ),
}


@pytest.mark.parametrize(("journal", "advice"), ADVICE.values(), ids=ADVICE.keys())
def test_what_to_change_follows_from_the_numbers(
    journal: list[dict[str, Any]], advice: str
) -> None:
    """One sentence for each cause, with the flag that helps."""
    assert sum_up(journal).advice == (advice,)


QUIET: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "a quick map": [event("prompt_reread", cause="map", seconds=0.2), *turns(4)],
    "a map of which the seconds are not known": [event("prompt_reread", cause="map"), *turns(4)],
    "a map that the user chose": [
        event("models_chosen", main="m", window_tokens=8192, map_follows_words=False),
        *[event("prompt_reread", cause="map", seconds=6.0)] * 2,
        *turns(4),
    ],
    "a turn": turns(1),
    "once full": [event("notice_shown", notice="context_filling")],
    "little side work": [{**COMMIT, "prefill_seconds": 1.0}, *turns(1)],
}


@pytest.mark.parametrize("journal", QUIET.values(), ids=QUIET.keys())
def test_without_a_reason_there_is_no_advice(journal: list[dict[str, Any]]) -> None:
    """Where nothing would be saved, or it is not known."""
    assert sum_up(journal).advice == ()


def test_the_memory_is_that_of_the_gpu_with_most_in_use() -> None:
    """Some do not tell; where none does, it is the machine's."""
    silent = {"vram_used_bytes": {"reason": "not told"}, "vram_total_bytes": 8}
    ram = {"total_bytes": 32, "available_bytes": 20}
    cards = [silent, *({"vram_used_bytes": used, "vram_total_bytes": 16} for used in (3, 5))]
    lines = [
        event("memory_read", reading={"gpus": gpus, "ram": ram})
        for gpus in (cards, [silent], {"reason": "no driver"})
    ]
    assert [(point.used_bytes, point.is_gpu) for point in sum_up(lines).memory] == [
        *((5, True), (12, False), (12, False)),
    ]


def test_lines_of_other_kinds_count_as_not_written() -> None:
    """An older or a newer version wrote them, or anything."""
    wild: list[dict[str, Any]] = [
        {},
        {"event": 7, "t": "x"},
        event("memory_read", reading=[]),
        event("memory_read", reading={"gpus": [{}], "ram": None}),
        event("egress_blocked", host="h"),
        event("request_finished"),
        event("models_chosen"),
        event("context_read", reading={"reason": "no table"}),
        event("turn_finished", load_seconds={"reason": "not told"}, prompt_tokens=True),
    ]
    report = sum_up(wild)
    assert [*report.blocked, *report.memory, *report.fills] == []
    (turn,) = report.turns
    assert isinstance(turn.load_seconds, Unavailable)
    assert isinstance(turn.prompt_tokens, Unavailable)
    assert turn.waited_seconds == 0.0
    assert sum_up([]) == SessionReport()


def test_only_numbers_are_numbers() -> None:
    """Neither true nor a text is one."""
    assert number(3) == 3.0
    others: tuple[object, ...] = (True, "3", None, {})
    assert all(isinstance(number(value), Unavailable) for value in others)
