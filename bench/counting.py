"""How far estimates of tokens are off, and how long counting takes.

The truth is the small model's own vocabulary, which is what its Ollama evaluates (tests/e2e/test_counts_reality.py).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from e2e.texts import texts

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.counting.counter import ModelCounter
from aider_guard.counting.files import load_counter
from aider_guard.counting.learned import Learned
from aider_guard.counting.prompt import PromptFormat, read_format
from aider_guard.counting.vocabulary import Vocabulary, vocabulary_of
from aider_guard.counting.vocabulary_files import show, vocabulary_facts
from aider_guard.demo.layout import Rig
from aider_guard.demo.ollama_server import private_ollama
from aider_guard.door.prompt_counter import CounterProcess

MODEL = "small"
LEARNING = 20
ROW = "{:46}{:>12}{:>12}   {}"


def print_counting(rig: Rig) -> None:
    """Both tables, on a private server of the rig's."""
    tokenizers = str(
        next(rig.aider.glob("lib/python3*/site-packages/litellm/litellm_core_utils/tokenizers"))
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        private_ollama(rig.ollama, rig.models, folder=Path(folder)) as server,
    ):
        prompt_format, vocabulary = described(server.url)
        encoding = load_counter(tokenizers)
        assert not isinstance(encoding, Unavailable)
        true = ModelCounter(prompt_format, vocabulary, None, Learned())
        print(
            ROW.format(
                "estimates: cl100k, learning",
                "median, %",
                "worst, %",
                f"after the first {LEARNING}",
            )
        )
        for name, prompts in (
            ("200 short texts", [*single()]),
            ("prompts of sessions", [*sessions()]),
        ):
            guessing = ModelCounter(prompt_format, None, encoding, Learned())
            print_errors(name, errors(prompts, true, guessing)[LEARNING:])
            bare = [
                off(encoding(whole(prompt)), true.weigh(prompt).count.tokens) for prompt in prompts
            ]
            print_errors(f"  cl100k as it is: {name}", bare[LEARNING:])
        print_costs(asyncio.run(costs(server.url, tokenizers, folder)))


def described(base: str) -> tuple[PromptFormat, Vocabulary]:
    """What the server says of the model."""
    shown = show(base, MODEL)
    assert not isinstance(shown, Unavailable)
    facts = vocabulary_facts(base, MODEL, shown, "")
    assert not isinstance(facts, Unavailable)
    vocabulary = vocabulary_of(facts)
    assert isinstance(vocabulary, Vocabulary)
    return read_format(MODEL, shown), vocabulary


def chat(contents: Sequence[str]) -> ChatRequest:
    """A chat that the user begins and ends."""
    messages = (
        Message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(contents)
    )
    return ChatRequest("chat", MODEL, tuple(messages), stream=True)


def whole(prompt: ChatRequest) -> str:
    """All that Aider itself would count."""
    return "".join(message.content for message in prompt.messages)


def single() -> Iterator[ChatRequest]:
    """Each text alone."""
    for _, text in texts():
        yield chat([text])


def sessions() -> Iterator[ChatRequest]:
    """Twenty sessions of ten turns: files of one kind first, then a history that grows."""
    every = texts()
    for number in range(20):
        start = number * 10
        files = "\n".join(text for _, text in every[start : start + 60 : 3]) * (1 + number % 4)
        for turn in range(10):
            yield chat([files, *(text for _, text in every[start : start + 2 * turn])])


def off(guessed: float, true: int) -> float:
    """By how many per cent a number is off."""
    return 100 * abs(guessed - true) / true


def errors(
    prompts: Sequence[ChatRequest], true: ModelCounter, guessing: ModelCounter
) -> list[float]:
    """How far each estimate was off before its answer taught."""
    found = []
    for prompt in prompts:
        weighted, truth = guessing.weigh(prompt), true.weigh(prompt).count.tokens
        found.append(off(weighted.count.tokens, truth))
        guessing.learn(weighted, truth)
    return found


async def costs(base: str, tokenizers: str, folder: str) -> tuple[int, list[float], list[float]]:
    """The tokens of a large prompt; milliseconds from the loop and back, first and with one new message each time."""
    upstream = Upstream("", base, "ollama")
    settings = DoorSettings(
        "t", (upstream,), (DoorRole("main", MODEL),), 4096, tokenizers=tokenizers
    )
    counter = CounterProcess(vocabularies=folder, wait_seconds=30)
    history = ["\n".join(text for _, text in texts()[n::20]) * 2 for n in range(19)]
    try:
        counter.serve(settings)
        await counter.count(chat(["a"]))
        first: list[float] = []
        again: list[float] = []
        tokens = 0
        for turn in range(30):
            started = time.perf_counter()
            counted = await counter.count(chat([*history, "a", f"Turn {turn}."]))
            (again if turn else first).append(1000 * (time.perf_counter() - started))
            assert isinstance(counted, Count)
            tokens = counted.tokens
        return tokens, first, again
    finally:
        counter.close()


def print_errors(name: str, found: Sequence[float]) -> None:
    print(ROW.format(name, f"{statistics.median(found):.1f}", f"{max(found):.1f}", ""))


def print_costs(measured: tuple[int, list[float], list[float]]) -> None:
    tokens, first, again = measured
    print(ROW.format("counting, ms, from the door's loop and back", "median", "worst", ""))
    print(ROW.format(f"{tokens:,} tokens for the first time", f"{first[0]:.1f}", "", ""))
    aim = "under 3 ms"
    print(
        ROW.format(
            "with one new message", f"{statistics.median(again):.1f}", f"{max(again):.1f}", aim
        )
    )
