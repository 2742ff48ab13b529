"""Turns of one session on a real Ollama: bare Aider, guarded, and the floor, which is the guarded session's requests
sent straight to Ollama.

``python -m bench.turns``. All three are measured by the same relay before Ollama, by Ollama's own log (its loads, and
the tokens that it really evaluated) and by the clock of a user who types.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aider_guard.counting.vocabulary import Vocabulary
from aider_guard.demo.layout import Rig, cache_folder, rig_in
from bench.talks import TURNS, Talk, place
from bench.tap import Asked

ROUNDING_TOKENS = 8
"""For where the old and the new text meet, and for an answer's tokens, which may be others when they come back."""
_ROW = "{:52}{:>12}{:>12}{:>12}   {}"


@dataclass(frozen=True)
class Results:
    """All that was measured."""

    bare: list[Talk]
    guarded: list[Talk]
    floor: list[Talk]
    vocabulary: Vocabulary


def measure(rig: Rig, turns: Sequence[str], rounds: int) -> Results:
    """Bare and guarded, taking turns, each guarded session with its floor."""
    bare, guarded, floor = list[Talk](), list[Talk](), list[Talk]()
    with place(rig, turns) as bench:
        for number in range(rounds):
            bare.append(bench.bare(f"bare-{number}"))
            guarded.append(bench.guarded(f"guarded-{number}"))
            floor.append(bench.floor(guarded[-1]))
            (bench.folder / "floor").rename(bench.folder / f"floor-{number}")
        return Results(bare, guarded, floor, bench.vocabulary())


def median(talks: Sequence[Talk], number: Callable[[Talk], float]) -> float:
    """Of a number over the rounds."""
    return statistics.median(map(number, talks))


def rows(results: Results) -> Iterator[str]:
    """The table."""
    ways = (results.bare, results.guarded, results.floor)
    yield _ROW.format("", "bare", "guarded", "floor", "aim").rstrip()

    def row(name: str, number: Callable[[Talk], float], aim: str, digits: int = 1) -> str:
        cells = [f"{median(way, number):,.{digits}f}" for way in ways]
        return _ROW.format(name, *cells, aim).rstrip()

    def times(number: Callable[[Talk], float]) -> float:
        return median(results.bare, number) / median(results.guarded, number)

    count = len(results.bare[0].turn_seconds)
    all_of = f"at least 3 times as fast: {times(lambda talk: talk.seconds):.1f} times"
    first = f"at least twice as fast: {times(lambda talk: talk.turn_seconds[0]):.1f} times"
    yield row(f"{count} turns, s", lambda talk: talk.seconds, all_of)
    yield row("first turn, s", lambda talk: talk.turn_seconds[0], first)
    share = 100 * (
        median(results.guarded, lambda talk: talk.ollama_seconds)
        / median(results.floor, lambda talk: talk.ollama_seconds)
        - 1
    )
    within = f"within 5 % of the floor: {share:+.1f} %"
    yield row("  of which Ollama's, s", lambda talk: talk.ollama_seconds, within)
    yield row("  Aider's own, s", lambda talk: talk.seconds - talk.ollama_seconds, "")
    yield row("loads", lambda talk: talk.loads, "one", digits=0)
    yield row("requests", lambda talk: len(talk.asked), "", digits=0)
    yield row("tokens evaluated of prompts", lambda talk: sum(talk.evaluated_tokens), "", digits=0)
    aim = "at most 10 % more than their new text"
    yield row(
        f"  later prompts' most above that, after {ROUNDING_TOKENS} tokens, %",
        lambda talk: excess_percent(talk, results.vocabulary),
        aim,
    )
    yield NOTE


NOTE = (
    "The model was trained for 8,192 tokens: from Ollama 0.30 on such a model is not loaded anew for each request"
    " of bare Aider's, one that was trained for more is."
)


def excess_percent(talk: Talk, vocabulary: Vocabulary) -> float:
    """By how much the worst later prompt's evaluation was above what its new text needs."""
    needed = new_tokens(talk.asked, vocabulary)
    pairs = zip(talk.evaluated_tokens[-len(needed) :], needed, strict=True)
    return max(
        100 * max(evaluated - need - ROUNDING_TOKENS, 0) / max(need, 1) for evaluated, need in pairs
    )


def new_tokens(asked: Sequence[Asked], vocabulary: Vocabulary) -> list[int]:
    """Of each prompt but the first, what the one before and its answer did not begin with."""
    needed = []
    for before, after in itertools.pairwise(asked):
        old, new = f"{rendered(before)}{before.answer}", rendered(after)
        same = sum(1 for _ in itertools.takewhile(bool, map(str.__eq__, old, new)))
        needed.append(vocabulary.count(new[same:]))
    return needed


def rendered(asked: Asked) -> str:
    """The prompt as ChatML, which the small model's template writes; neighbours of one role are one message."""
    merged: list[tuple[str, str]] = []
    for message in asked.body["messages"]:
        role, content = message["role"], message["content"]
        if merged and merged[-1][0] == role:
            content = f"{merged.pop()[1]}\n\n{content}"
        merged.append((role, content))
    texts = (f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in merged)
    return "".join(texts) + "<|im_start|>assistant\n"


def print_turns(rig: Rig, turns: int, rounds: int) -> None:
    """Measure and print."""
    for row in rows(measure(rig, TURNS[:turns], rounds)):
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__)
    parser.add_argument("--turns", type=int, default=len(TURNS), help="messages in each session")
    parser.add_argument("--rounds", type=int, default=1, help="sessions of each way")
    options = parser.parse_args()
    print_turns(rig_in(cache_folder()), options.turns, options.rounds)


if __name__ == "__main__":
    main()
