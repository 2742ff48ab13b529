"""The process of a model shows what of a prompt it had in its cache, while it answers, and nothing when it is idle."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest
from e2e.conftest import TODAY
from e2e.shallow import BRIEF

from aider_guard.core.readings import Unavailable
from aider_guard.door.slots import IDLE, Slot, SlotReader
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.model_process import ModelProcess, find_model_process

if TYPE_CHECKING:
    from aider_guard.demo.ollama_server import PrivateOllama

CAP_SECONDS = 60.0
TEXT = " ".join(f"Line {number} of the till says {number * 7}." for number in range(60))


@pytest.mark.servers(TODAY)
def test_the_slot_of_a_prompt_shows_what_was_known_of_it(
    ollama: PrivateOllama, shallow: str
) -> None:
    """Asked for the second time, most of it is."""

    def process_of(base: str, model: str) -> ModelProcess | Unavailable:
        with closing(OllamaClient(base)) as client:
            digest = client.blob(model, CAP_SECONDS)
        return digest if isinstance(digest, Unavailable) else find_model_process(base, digest)

    body = {"model": shallow, "prompt": TEXT, "stream": False}
    whole = httpx.Client(base_url=ollama.url, timeout=CAP_SECONDS, trust_env=False)
    over = threading.Event()

    def ask(answer_tokens: int) -> object:
        options = BRIEF | {"num_ctx": 2048, "num_predict": answer_tokens}
        answer = whole.post("/api/generate", json=body | {"options": options}).json()
        return answer.get("prompt_eval_count")  # not of an answer that says one word for ever

    def ask_again_and_again() -> None:
        while not over.is_set():
            ask(answer_tokens=200)

    with whole, closing(SlotReader(process_of, answer_seconds=CAP_SECONDS)) as slots:
        tokens = ask(answer_tokens=1)
        assert slots.read(ollama.url, shallow) == IDLE
        asker = threading.Thread(target=ask_again_and_again)
        asker.start()
        try:
            slot = waited_for(slots, ollama.url, shallow)
        finally:
            over.set()
            asker.join()
    assert slot.cached_tokens + slot.read_tokens == tokens
    assert slot.cached_tokens > slot.read_tokens


def waited_for(slots: SlotReader, base: str, model: str) -> Slot:
    """The slot of an answer that is being made, once one is seen."""
    deadline = time.monotonic() + CAP_SECONDS
    while time.monotonic() < deadline:
        looked = slots.read(base, model)
        if isinstance(looked, Slot) and looked.answers:
            return looked
    raise AssertionError("no answer was seen while it was made")
