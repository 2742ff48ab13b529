"""The guard's answer to the question that Aider asks before it begins, on the real command line (``guards.py``)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes.ollama_server import FakeModel, FakeOllama, Hang, Json, Raw
from session.guards import NOTICE, Place, prompts
from session.ptys import PATIENT, child

from aider_guard.config import Config
from aider_guard.launch.aider import Aider
from aider_guard.session.planning import Planner

if TYPE_CHECKING:
    from collections.abc import Mapping

LAUNCH_REFUSED = 78
MODEL = ("--model", "ollama_chat/qwen3:8b")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With an Aider that says what it will use."""
    return Place.make(tmp_path / "place")


def journal(place: Place, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in place.journal().splitlines()]
    return [line for line in lines if line["event"] == event]


def run(
    place: Place,
    *arguments: str,
    options: tuple[str, ...] = (),
    shows: int = 1,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    command = place.guarded(*arguments, options=options)
    with place.person(prompts(shows), command, env=env) as person:
        return person.finish(), bytes(person.shown).decode()


def test_a_launch_that_would_use_a_cloud_is_refused(place: Place) -> None:
    """Nothing of Aider is seen, the reason is, with its fix; the status is that of a launch that failed."""
    status, shown = run(place, "--model", "gpt-4o")
    assert status == LAUNCH_REFUSED
    assert shown.startswith("aider-guard: Aider was not started: the main model, gpt-4o, ")
    assert "prompt 0" not in shown
    assert not (place.work / "aider.argv").exists()
    assert journal(place, "finding")[0]["severity"] == "stop"
    assert journal(place, "end_session")[0]["exit_status"] == LAUNCH_REFUSED
    assert b"gpt-4o" not in place.journal()


def test_with_an_open_network_it_is_started_and_said(place: Place) -> None:
    """Once, at the first prompt."""
    status, shown = run(place, "--model", "gpt-4o", options=("--network", "open"), shows=2)
    assert status == 0
    assert shown.count("the network is open in this session") == 1


def test_without_a_terminal_it_is_refused_as_well(place: Place) -> None:
    """A script gets the status and the sentence on standard error."""
    import subprocess

    done = subprocess.run(
        place.guarded("--model", "gpt-4o", "--message", "hi"),
        env=place.env(child("exits_with", 0)),
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (LAUNCH_REFUSED, "")
    assert done.stderr.startswith("aider-guard: Aider was not started: the main model, gpt-4o")
    assert not (place.work / "aider.argv").exists()


def test_a_warning_is_said_once(place: Place) -> None:
    """No Ollama: Aider is started, and the line to paste is there."""
    status, shown = run(place, *MODEL, shows=2)
    assert status == 0
    assert "prompt 1" in shown
    assert shown.count("ollama serve") == 1


def test_the_models_and_their_window_are_those_that_ollama_told(tmp_path: Path) -> None:
    """The survey's numbers decide: the trained context is shorter than what fits."""
    with FakeOllama(models=(FakeModel("qwen3:8b", size_bytes=1 << 20),)) as ollama:
        place = Place.make(tmp_path / "place", ollama=ollama.url)
        status, _ = run(place, *MODEL)
    assert status == 0
    (chosen,) = journal(place, "models_chosen")
    assert chosen["models"] == ["qwen3:8b"]
    assert chosen["window_tokens"] % 1024 == 0
    assert [need["name"] for need in chosen["needs"]] == ["qwen3:8b"]


BAD: dict[str, Any] = {
    "hangs": Hang(),
    "speaks no JSON": Raw(b"<html>"),
    "answers in other types": Json({"models": 7, "version": [], "model_info": "x"}),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_a_bad_ollama_does_not_hold_the_launch_up(tmp_path: Path, answer: Any) -> None:
    """Aider begins without its answer, with the cautious window, and one warning."""
    with FakeOllama() as ollama:
        ollama.answers = dict.fromkeys(
            ("/api/version", "/api/tags", "/api/show", "/api/ps", "/api/status"), answer
        )
        place = Place.make(tmp_path / "place", ollama=ollama.url)
        began = time.monotonic()
        status, shown = run(place, *MODEL, env=dict.fromkeys(PATIENT, ""))
        seconds = time.monotonic() - began
    assert status == 0
    assert shown.count(NOTICE.decode()) == 1
    (chosen,) = journal(place, "models_chosen")
    assert chosen["window_tokens"] == 8192
    assert seconds < 20  # the sidecar's own limit was not waited for, on a busy machine either


@pytest.mark.parametrize(
    ("environment", "seconds"), [({}, 1.5), (dict.fromkeys(PATIENT, ""), 1.5), (PATIENT, 15)]
)
def test_only_tests_have_it_wait_longer(environment: dict[str, str], seconds: float) -> None:
    """By a variable that no user has."""
    aider = Aider("/bin/aider", ("/bin/python",))
    planner = Planner(Config(), aider, environment, refusing="", state_dir=Path())
    assert planner.patience_seconds(1.5) == seconds


def test_what_was_learned_and_cannot_be_read_costs_nothing(place: Place) -> None:
    """It is a cache."""
    place.state.mkdir()
    (place.state / "needs.json").write_text("{")
    assert run(place, *MODEL)[0] == 0


def test_a_full_state_folder_is_a_sentence(place: Place) -> None:
    """A file that cannot be written is reported, and Aider is not left waiting."""
    place.state.write_text("not a folder")
    status, shown = run(place, *MODEL)
    assert status != 0
    assert shown.startswith("aider-guard: ")
    assert "Traceback" not in shown
