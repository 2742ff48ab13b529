"""How full the window is, as ``status`` shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.histories_of_events import UNKNOWN, at_first_prompt

from aider_guard import cli
from aider_guard.core.actions import Notice
from aider_guard.core.events import PromptShown
from aider_guard.core.findings import stop
from aider_guard.core.readings import Gpu, MemoryReading
from aider_guard.errors import ConfigError
from aider_guard.session import control, notices, registry
from aider_guard.view import status
from aider_guard.view.page import Page


def test_a_measured_fill_is_not_called_an_estimate() -> None:
    """After a command that may have changed the chat it is one again, and before the first turn nothing is known."""
    story = at_first_prompt()
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert (facts["used_tokens"], facts["used_is_measured"]) == (None, False)
    assert "context   not measured yet; window 10,000 tokens" in status.table([facts])

    story.measured_turn(5_000, 100, estimate=UNKNOWN)
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert (facts["used_tokens"], facts["used_is_measured"]) == (5_100, True)
    assert "context   51 % full: 5,100 of 10,000 tokens" in status.table([facts])

    story.tell(PromptShown())
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert "context   about 51 % full: 5,100 of 10,000 tokens" in status.table([facts])
    del facts["used_is_measured"]  # a session of an older guard does not say
    assert "about 51 %" in status.table([facts])


def test_the_memory_of_each_gpu_is_said_as_far_as_it_is_told() -> None:
    """Its use may not be told, and its memory may be the machine's."""
    told = Gpu(0, "AMD", 24 << 30, 3 << 30, ())
    untold = Gpu(1, "Arc", 12 << 30, UNKNOWN, ())
    shared = Gpu(2, "AMD", 32 << 30, 2 << 30, (), shares_main_memory=True)
    reading = MemoryReading((told, untold, shared), UNKNOWN, 0.0)
    state = replace(at_first_prompt().state, memory=reading)
    facts = control.session_facts(state, session_id="id", pid=1)
    parts = "GPU 0 3.0 GiB of 24.0 GiB, GPU 1 12.0 GiB, use not told, GPU 2 2.0 GiB of 32.0 GiB of the main memory"
    assert f"memory    {parts}\n" in status.table([facts])
    assert [gpu["vram_used_bytes"] for gpu in facts["memory"]["gpus"]] == [3 << 30, None, 2 << 30]
    for gpu in facts["memory"]["gpus"]:
        del gpu["shares_main_memory"]  # a session of an older guard does not say
    assert "GPU 2 2.0 GiB of 32.0 GiB\n" in status.table([facts])


EVIL = "x\x1b]0;y\x07\x9b2J\r\u202e\udc80"


def _forged(**changes: Any) -> dict[str, Any]:
    facts = control.session_facts(at_first_prompt().state, session_id=EVIL, pid=1)
    models = [{"name": EVIL, "size_bytes": 5}]
    forged = {"phase": EVIL, "turns": EVIL, "models": models, "last_notice": f"{EVIL}\nAider  fine"}
    return {**facts, **forged, **changes}


@pytest.mark.parametrize("arguments", [["status"], ["status", "--line"], ["status", "--json"]])
def test_nothing_of_a_forged_session_moves_the_cursor(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A session's file and socket may be anyone's: only text reaches the screen, and each fact is one line."""
    _answer_with(_forged(turns=1), monkeypatch)
    assert cli.run(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert not any(line.startswith("Aider  fine") for line in printed.splitlines())


@pytest.mark.parametrize(
    "changes",
    [
        {"used_tokens": EVIL, "fill_percent": 5.0},
        {"memory": 5},
        {"models": [5]},
        {"used_tokens": [], "fill_percent": "a"},
    ],
)
def test_an_answer_of_another_form_is_no_session(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left out, and is no fault of the guard's."""
    for forged in (_forged(**changes), {}, {"id": "a"}):
        _answer_with(forged, monkeypatch)
        assert cli.run(["status"]) == 0
        assert capsys.readouterr().out == "no session is running\n"


def _answer_with(forged: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_running", lambda *_: [registry.SessionFolder(*_FOLDER)])
    monkeypatch.setattr(cli, "_ask", lambda *_: forged)


_FOLDER: Any = (Path("/s"), 1, 0.0, "/", "/socket")


def test_every_way_to_the_screen_prints_text_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notices, findings, progress, and errors with what a file of the repository holds."""
    shown = notices.render(Notice("kind", (EVIL, EVIL)), 80, colour=False, newline="")
    assert shown.isprintable()
    assert notices.progress(EVIL, 80).decode().removeprefix("\r\x1b[2K").isprintable()
    page = Page(80).finding(stop("id", EVIL, EVIL, EVIL), with_fix=True)
    assert all(line.isprintable() for line in page)

    def fail(*_: object) -> None:
        raise ConfigError(EVIL)

    monkeypatch.setattr(cli, "load_settings", fail)
    assert cli.run(["doctor"]) == ConfigError.exit_code
    assert capsys.readouterr().err.removesuffix("\n").isprintable()
