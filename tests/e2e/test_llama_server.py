"""Aider on a server that speaks OpenAI's protocol: real Aider, llama.cpp's own server, and the guard between them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from e2e.desk import QUIET, Desk
from e2e.people import Guarded
from e2e.shallow import shallow_rig

from aider_guard.core.other_servers import OtherModel
from aider_guard.core.server_report import ServedModel
from aider_guard.demo.layout import Rig
from aider_guard.demo.llama_server import ensure_llama_server, private_llama_server
from aider_guard.ollama.other_server import describe_model

WINDOW_TOKENS = 4096
MODEL = "openai/whatever"
NOBODY = "http://127.0.0.1:9"
"""Where no Ollama is: none is needed."""


@pytest.fixture(scope="module")
def llama(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server of llama.cpp's."""
    program = ensure_llama_server(rig)
    log = tmp_path_factory.mktemp("llama") / "log"
    rig = shallow_rig(rig, tmp_path_factory.mktemp("llama-models"))
    with private_llama_server(program, rig, window_tokens=WINDOW_TOKENS, log=log) as url:
        yield url


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """With model settings of the user's that make the model stop after a few words."""
    parameters = '{stop: [".", "-", ","], max_tokens: 16, temperature: 0, frequency_penalty: 2}'
    brief = f"- name: {MODEL}\n  extra_params: {parameters}\n"
    (desk.repo / ".aider.model.settings.yml").write_text(brief)
    return desk


def environment(desk: Desk, llama: str) -> dict[str, str]:
    """The user's: the address and a key that such a server does not look at."""
    return {
        **desk.env,
        "OLLAMA_API_BASE": NOBODY,
        "OPENAI_API_BASE": f"{llama}/v1",
        "OPENAI_API_KEY": "none",
    }


def guard(*words: str, desk: Desk, llama: str) -> subprocess.CompletedProcess[str]:
    """The guard without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "aider_guard", "--aider", str(desk.aider), *words],
        env=environment(desk, llama),
        cwd=desk.repo,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("path", ["/v1", ""])
def test_the_server_tells_its_window(llama: str, path: str) -> None:
    """What it was started with, not what the model was trained for."""
    told = describe_model(ServedModel(MODEL, "whatever", llama + path), 60.0)
    assert isinstance(told, OtherModel)
    assert (told.server, told.window_tokens) == ("llama.cpp", WINDOW_TOKENS)


def test_the_doctor_names_the_server_and_its_window(desk: Desk, llama: str) -> None:
    """Nothing is wrong, though no Ollama runs."""
    done = guard("doctor", "--json", "--", "--model", MODEL, desk=desk, llama=llama)
    findings = {one["id"]: one for one in json.loads(done.stdout)["findings"]}
    found = findings["local-server"]
    assert (found["severity"], found["evidence"]) == ("info", llama)
    assert f"its window is {WINDOW_TOKENS:,} tokens" in found["what"]
    assert not [one for one in findings.values() if one["severity"] in ("stop", "warn")]


def metadata_in(shown: str) -> Any:
    """The metadata of models in what --show printed; the guard's settings come after them."""
    text = shown.partition("model.metadata.json:\n")[2].lstrip()
    return json.JSONDecoder().raw_decode(text)[0]


def test_what_aider_is_given_leads_through_the_door(desk: Desk, llama: str) -> None:
    """Its address and, in the metadata, the window of the server."""
    done = guard("--show", "--", "--model", MODEL, desk=desk, llama=llama)
    assert "    OPENAI_API_BASE=http://127.0.0.1:PORT/TOKEN/openai" in done.stdout.splitlines()
    assert f"http://127.0.0.1:PORT/TOKEN/openai forwards to {llama}" in done.stdout
    metadata = metadata_in(done.stdout)
    assert metadata[MODEL]["max_input_tokens"] == WINDOW_TOKENS


def test_an_entry_of_the_users_leads_through_the_door_too(desk: Desk, llama: str) -> None:
    """Its address is replaced, its path is not lost, and the rest of it is kept; the file stays as it is."""
    entry = f"- name: {MODEL}\n  extra_params: {{api_base: '{llama}/v1', temperature: 0}}\n"
    path = desk.repo / ".aider.model.settings.yml"
    path.write_text(entry)
    done = guard("--show", "--", "--model", MODEL, desk=desk, llama=NOBODY)
    written = done.stdout.partition("model.settings.yml:\n")[2].partition("\n\n")[0]
    (found,) = yaml.safe_load(written)
    assert found["extra_params"] == {
        "api_base": "http://127.0.0.1:PORT/TOKEN/openai",
        "temperature": 0,
    }
    metadata = metadata_in(done.stdout)
    assert metadata[MODEL]["max_input_tokens"] == WINDOW_TOKENS
    assert path.read_text() == entry


def test_a_message_without_a_terminal_is_answered(desk: Desk, llama: str) -> None:
    """One request, of which the server remembers the prompt; nothing of the door is seen."""
    words = ("--model", MODEL, *QUIET, "--no-pretty", "--message", "Say hello.")
    done = guard("--", *words, desk=desk, llama=llama)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Tokens: \S+ sent, [1-9]\d* received\.", done.stdout, re.MULTILINE)
    assert "TOKEN" not in done.stdout + done.stderr


def test_a_session_is_counted_and_watched(desk: Desk, llama: str) -> None:
    """The window is the server's, the numbers of a turn are the server's own, and the token shows nowhere."""
    words = ["--model", MODEL, *QUIET]
    with Guarded(
        str(desk.aider), words, env=environment(desk, llama), cwd=desk.repo, columns=160
    ) as person:
        person.wait_for_prompt()
        person.ask("Say hello.")
        (chosen,) = person.journal("models_chosen")
        finished = person.wait_for_event("request_finished")
        journal = (person.folder() / "journal.jsonl").read_text()
        person.type(b"/exit\r")
        assert person.end() == 0
    assert chosen["window_tokens"] == WINDOW_TOKENS
    assert (finished["role"], finished["outcome"]) == ("main", "answered")
    assert finished["window_tokens"] == WINDOW_TOKENS
    assert finished["prompt_tokens"] > 50
    assert finished["counted_by"] == "server"
    assert finished["counted_tokens"] == finished["prompt_tokens"]
    assert finished["answer_tokens"] > 0
    assert not re.search(r"127\.0\.0\.1:\d+/[\w-]{20}", journal)


def test_a_prompt_too_large_for_the_server_is_answered_in_words(desk: Desk, llama: str) -> None:
    """The door or the server refuses it, and the session goes on. By Aider's count of digits it fits."""
    (desk.repo / "large.csv").write_text("1234567890\n" * (WINDOW_TOKENS // 10))
    words = ["--model", MODEL, *QUIET, "--read", "large.csv"]
    with Guarded(
        str(desk.aider), words, env=environment(desk, llama), cwd=desk.repo, columns=160
    ) as person:
        person.wait_for_prompt()
        person.ask("Say hello.")
        refused = person.wait_for_event("request_refused")
        assert not person.journal("request_finished")
        person.ask("/drop large.csv")
        person.ask("Say hello.")
        person.wait_for_event("request_finished")
        person.type(b"/exit\r")
        assert person.end() == 0
    assert refused["reason"] == "overflow"
    assert refused["counted_by"] == "server"
    assert refused["over_tokens"] > 0
