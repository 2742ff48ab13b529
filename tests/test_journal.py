"""The journal: what is written down, what never is, and what happens when the disk is full."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from aider_guard.core.actions import Handoff, Notice, ShowNotice, StartAider
from aider_guard.core.chat.events import ReadingEstimated, RequestFinished, RequestRefused
from aider_guard.core.chat.types import Verdict
from aider_guard.core.events import (
    AirGapChosen,
    ChatSaved,
    ContextRead,
    EgressAllowed,
    EgressBlocked,
    FilesCounted,
    KeyTyped,
    MemoryRead,
    ModelsChosen,
    ModelsRead,
    PromptShown,
    TerminationRequested,
    TextsCounted,
    TurnFinished,
)
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    Gpu,
    GpuProcess,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.journal import open_journal

SECRET = "top secret.py"
UNKNOWN = Unavailable("not read")


class Writes:
    """A journal with a clock that is set by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0
        self.failures: list[str] = []

    def __call__(self, *happened: object) -> list[dict[str, Any]]:
        """Open it, write all of this a second apart, close it, and read what is there."""
        with open_journal(
            self.path, clock=lambda: self.now, on_failure=self.failures.append
        ) as journal:
            for one in happened:
                self.now += 1.0
                if callable(one):
                    one()
                else:
                    journal.write(one)
        return self.read()

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def wait(self, seconds: float) -> Callable[[], None]:
        def pass_time() -> None:
            self.now += seconds

        return pass_time


@pytest.fixture
def writes(tmp_path: Path) -> Writes:
    return Writes(tmp_path / "journal.jsonl")


def gpu_memory(gib: int, at: float) -> MemoryRead:
    return MemoryRead(MemoryReading((Gpu(0, "card", 8 << 30, gib << 30, ()),), UNKNOWN, at))


def test_each_event_is_one_line_of_its_own(writes: Writes) -> None:
    """Name, time of day in UTC, seconds since the start, and the event's own facts, in that order."""
    lines = writes(KeyTyped(), TurnFinished(2, 100, UNKNOWN), TerminationRequested(15))
    assert [line["event"] for line in lines] == [
        "key_typed",
        "turn_finished",
        "termination_requested",
    ]
    assert [line["t"] for line in lines] == [1.0, 2.0, 3.0]
    assert list(lines[1]) == [
        *("event", "at", "t"),
        *("requests", "sent_tokens", "received_tokens", "prompt_tokens", "answer_tokens"),
        *("load_seconds", "prefill_seconds", "generation_seconds"),
        *("cached_tokens", "read_tokens"),
    ]
    assert lines[1]["sent_tokens"] == 100
    assert lines[1]["received_tokens"] == {"reason": "not read"}
    said = datetime.fromisoformat(lines[0]["at"].replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - said).total_seconds()) < 60


def test_a_line_break_in_a_fact_stays_within_the_line(writes: Writes) -> None:
    """One event is one line whatever its facts hold, names that are no UTF-8 included."""
    (line,) = writes(ModelsChosen("a\nb\u2028c\udcff", (), UNKNOWN))
    assert line["main"] == "a\nb\u2028c\udcff"


def test_an_attempt_to_leave_is_written_down_with_its_five_facts(writes: Writes) -> None:
    """Host, port, protocol, program and count; what was let through without the two that are known."""
    blocked, allowed, chosen = writes(
        EgressBlocked("example.org", 443, "tcp", "curl", 2),
        EgressAllowed("github.com", 22, 3),
        AirGapChosen("seccomp", "apparmor"),
    )
    assert {**blocked, "at": "", "t": 0} == {
        "event": "egress_blocked",
        "at": "",
        "t": 0,
        "host": "example.org",
        "port": 443,
        "protocol": "tcp",
        "program": "curl",
        "count": 2,
    }
    assert [allowed[name] for name in ("event", "host", "port", "count")] == [
        *("egress_allowed", "github.com", 22, 3)
    ]
    assert [chosen[name] for name in ("event", "layer", "because")] == [
        *("air_gap_chosen", "seccomp", "apparmor")
    ]


def samples() -> list[object]:
    """Events and actions that hold names of files or texts."""
    row = ContextRow("file", SECRET, 10)
    notice = Notice("context_filling", (SECRET,))
    return [
        PromptShown("ask", files=(SECRET,)),
        TurnFinished(1, 1, 1, (SECRET,)),
        ChatSaved((SECRET,), (SECRET,)),
        ContextRead(ContextReading("m", (row,), 10, 100, 0.0)),
        FilesCounted({SECRET: 10}),
        ModelsChosen("m", ("m",), 1, SECRET),
        RequestFinished(1, "main", "chat", "m", "answered", Verdict("whole", "e"), parts=(row,)),
        RequestRefused(1, "main", "chat", "m", "overflow", said=(SECRET,)),
        ShowNotice(notice),
        StartAider("20 turns", Handoff((SECRET,), (SECRET,))),
    ]


def test_no_name_of_a_file_and_no_text_goes_in(writes: Writes) -> None:
    """Fields marked so where they are declared are left out, however deep they are nested."""
    lines = writes(*samples())
    assert len(lines) == len(samples())
    assert SECRET not in writes.path.read_text(encoding="utf-8")
    assert lines[0]["mode"] == "ask"
    assert lines[3]["reading"]["rows"] == [{"kind": "file", "tokens": 10, "read_only": False}]
    assert lines[8]["notice"] == {"name": "context_filling"}


def test_readings_that_say_nothing_new_are_noted_once_a_minute(writes: Writes) -> None:
    """The same but for the time they were taken; what changed is noted at once, and events are all noted."""
    lines = writes(
        *(gpu_memory(4, at) for at in (1.0, 2.0, 3.0)),
        gpu_memory(6, 4.0),
        gpu_memory(6, 5.0),
        *(KeyTyped(), KeyTyped()),
        writes.wait(60.0),
        gpu_memory(6, 6.0),
    )
    names = [line["event"] for line in lines]
    assert names == ["memory_read"] * 2 + ["key_typed"] * 2 + ["memory_read"]


def test_only_its_owner_may_read_it(writes: Writes) -> None:
    """Mode 0600 from the first byte on."""
    writes(KeyTyped())
    assert stat.S_IMODE(writes.path.stat().st_mode) == 0o600


def test_a_line_is_there_as_soon_as_it_is_written(writes: Writes) -> None:
    """A kill loses nothing that was noted."""
    seen: list[int] = []
    writes(
        KeyTyped(),
        lambda: seen.append(len(writes.read())),
        KeyTyped(),
        lambda: seen.append(len(writes.read())),
    )
    assert seen == [1, 2]


def test_it_is_appended_to(writes: Writes) -> None:
    """Earlier lines are kept."""
    writes(KeyTyped())
    assert len(writes(KeyTyped())) == 2


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="a full disk is /dev/full, which Linux has"
)
def test_a_full_disk_is_reported_once_and_ends_the_journal() -> None:
    """The first failure is reported in words, nothing more is written, and closing raises nothing."""
    failures: list[str] = []
    with open_journal(Path("/dev/full"), clock=lambda: 0.0, on_failure=failures.append) as journal:
        for _ in range(3):
            journal.write(KeyTyped())
    (failure,) = failures
    assert failure.startswith("the journal cannot be written: ")
    assert "No space left" in failure


def test_a_journal_that_was_closed_reports_that(writes: Writes) -> None:
    """A late event after the end is no crash."""
    with open_journal(writes.path, clock=lambda: 0.0, on_failure=writes.failures.append) as journal:
        pass
    journal.write(KeyTyped())
    journal.write(KeyTyped())
    assert len(writes.failures) == 1


def test_a_folder_that_is_not_there_is_the_callers_affair(tmp_path: Path) -> None:
    """Without a place for it no journal is made."""
    opening = open_journal(tmp_path / "no" / "j", clock=lambda: 0.0, on_failure=pytest.fail)
    with pytest.raises(FileNotFoundError):
        opening.__enter__()


def test_every_kind_of_reading_can_be_written(writes: Writes) -> None:
    """Nested values, lists and reasons become JSON."""
    process = GpuProcess(7, "blender", UNKNOWN, is_ollama=False)
    gpus = (Gpu(0, "card", 8, 4, (process,)), Gpu(1, "card", 8, 4, UNKNOWN))
    memory = MemoryRead(MemoryReading(gpus, RamReading(2, 1, UNKNOWN), 1.0))
    model = LoadedModel("m", "d", 1, 1, UNKNOWN)
    models = ModelsRead(ModelsReading((model,), 0.0))
    first, second, third = writes(memory, TextsCounted(1, UNKNOWN), models)
    assert first["reading"]["gpus"][0]["processes"][0]["name"] == "blender"
    assert first["reading"]["gpus"][1]["processes"] == {"reason": "not read"}
    assert second["tokens"] == {"reason": "not read"}
    assert third["reading"]["models"][0]["window_tokens"] == {"reason": "not read"}


def test_an_estimate_that_moves_on_is_written_once_a_minute(writes: Writes) -> None:
    """Each prompt's first, though their numbers always differ."""
    first = ReadingEstimated(1, "m", 4_000, 0, 100, 40.0, "slots")
    later = [replace(first, read_tokens=100 * at, seconds_left=40.5 - at) for at in range(2, 9)]
    lines = writes(first, *later, replace(first, number=2), *later[:1])
    assert [line["number"] for line in lines] == [1, 2, 1]
