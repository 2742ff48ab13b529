"""The ten routes on which a prompt overflows, with ``refuse``, through the whole door to a fake of each kind of Ollama.

The prompts are those of ``e2e/overflowing.py``, whose sizes are measured on a real Ollama; the fake's model has a
vocabulary by which they have the same sizes, and the door counts them with it, before anything is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from door.handler_services import HandlerSetup
from door.test_door_chat_handler_eras import door, last_event, post
from e2e.overflowing import MODEL, TEN, WINDOW_TOKENS, Overflowing
from fakes.ollama_models import CHATML, FakeModel
from fakes.ollama_server import FakeOllama
from fakes.vocabulary import SPECIAL, Vocabulary, letters

from aider_guard.core.chat.events import RequestFinished, RequestRefused
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.door.prompt_counter import CounterProcess

VERSIONS = ("0.12.6", "0.24.0", "0.30.0", "0.30.11", "0.33.0-rc2")
EACH = pytest.mark.parametrize("case", TEN, ids=[case.name for case in TEN])
WHOLE_WORDS = ("the", "system", "user", "assist", "ant")
"""Of the small model's tokens, those that the ten are made of."""


def vocabulary() -> Vocabulary:
    """Each of the words is one token, and "the" is with a space before it, too."""
    steps = itertools.chain.from_iterable(
        ((word[:end], word[end]) for end in range(1, len(word))) for word in WHOLE_WORDS
    )
    merges = (*steps, ("Ġ", "the"))
    tokens = (*SPECIAL, *sorted(letters()), *("".join(pair) for pair in merges))
    return Vocabulary(tuple(dict.fromkeys(tokens)), merges)


@dataclass(frozen=True)
class OpenDoorSetup:
    """An open door, its handler, and the server behind it."""

    setup: HandlerSetup
    ollama: FakeOllama
    base: str

    def send(self, case: Overflowing) -> tuple[Any, str]:
        """Send a request; return its last event and the answer's text."""
        self.setup.events.clear()
        self.ollama.received.clear()
        content = json.dumps({**case.body, "stream": False}).encode()
        answer = post(self.base, content, case.path).json()
        return last_event(self.setup), answer.get("response") or answer["message"]["content"]


@pytest.fixture(scope="module", params=VERSIONS)
def door_setup(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[OpenDoorSetup]:
    """A door with ``refuse`` to an Ollama of this version, with a real counter."""
    model = FakeModel(f"{MODEL}:latest", vocabulary=vocabulary(), template=CHATML, blob="5b" * 32)
    folder: Path = tmp_path_factory.mktemp("vocabularies")
    counter = CounterProcess(vocabularies=str(folder), wait_seconds=20)
    with FakeOllama(version=request.param, models=(model,)) as ollama, contextlib.closing(counter):
        upstreams = (Upstream("", ollama.url, "ollama"),)
        served = DoorSettings("token", upstreams, (DoorRole("main", MODEL),), WINDOW_TOKENS)
        counter.serve(served)
        setup = HandlerSetup(served, counter=counter)  # type: ignore[arg-type]  # the real ones
        setup.residency.windows[MODEL] = WINDOW_TOKENS
        with door(ollama, setup) as base:
            yield OpenDoorSetup(setup, ollama, base)


@EACH
def test_none_of_the_ten_is_sent_that_would_be_cut(
    door_setup: OpenDoorSetup, case: Overflowing
) -> None:
    """The door answers by itself, with the exact number; what fits with its answer is sent and read whole."""
    answer_tokens = case.body["options"]["num_predict"]
    over = case.tokens + answer_tokens - WINDOW_TOKENS
    assert over > 0 or case.outcome == "whole"
    event, text = door_setup.send(case)
    if over > 0:
        assert door_setup.ollama.chats == []
        assert isinstance(event, RequestRefused)
        assert (event.reason, event.over_tokens) == ("overflow", over)
        assert (event.counted_tokens, event.window_tokens) == (case.tokens, WINDOW_TOKENS)
        assert text.startswith(f"aider-guard: not sent: exactly {over:,} tokens too large")
        assert event.counted_by == "rendered"
    else:
        (sent,) = door_setup.ollama.chats
        assert sent["truncate"] is False
        assert isinstance(event, RequestFinished)
        assert event.verdict.outcome == "whole"
        assert not text.startswith("aider-guard")


def test_nine_are_refused(door_setup: OpenDoorSetup) -> None:
    """One fits. An answer that ends with the window's last token would fit, too: it is held back by that one token."""
    refused = [case for case in TEN if isinstance(door_setup.send(case)[0], RequestRefused)]
    whole = [case.name for case in refused if case.outcome == "whole"]
    assert (len(refused), whole) == (9, ["an answer to its end"])
