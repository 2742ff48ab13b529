"""How far off the door is when it says how long a prompt will take to read.

``python -m bench.reading``. A real sidecar stands before the tests' stand-in of an Ollama of today, whose model is read
by a real llama.cpp with one thread. Each session begins with nothing learned and has its prompts grow and change as
Aider's do; what was told is compared with when the answer began. ``--unseen`` asks the private Ollama 0.9.3 instead,
whose processes do not say how far they are: then only the pace of earlier prompts is known. ``--steady`` measures the
estimate alone, without the door: its clock is the processor time of the model's process, which other programs on the
machine do not change.
"""

from __future__ import annotations

import argparse
import select
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from e2e.doors import OpenDoor, open_door, settings_for
from standin.program import standin_ollama

from aider_guard.core.architecture import even_tokens
from aider_guard.core.chat.events import ReadingEstimated, ReadingFinished, RequestFinished
from aider_guard.core.chat.pace import (
    ReadingPace,
    ReadingPosition,
    ReadingSample,
    seconds_left,
)
from aider_guard.core.events import Event
from aider_guard.core.readings import Unavailable
from aider_guard.demo.layout import SMALL_Q4, Rig
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama
from aider_guard.demo.rig import ensure_rig
from aider_guard.door.slots import Slot, working_slot

WINDOW_TOKENS = 4096
LEAST_TOKENS = 128
"""With less to be read the user is told nothing any more."""
AIM_PERCENT = 15
_SYSTEM = "Act as an expert software developer.\nAlways use best practices when coding.\n"
_FILES = "I have *added these files to the chat* so you can go ahead and edit them.\n"


@dataclass
class Told:
    """One prompt: when what was told (seconds from its sending on), and how it ended."""

    tokens: int = 0
    cached_tokens: int = 0
    estimates: list[tuple[float, ReadingEstimated]] = field(default_factory=list)
    ended_at: float = 0.0
    finished: ReadingFinished | None = None

    @property
    def first_error_percent(self) -> float | None:
        """Of the first estimate of the whole, in per cent of what it took; positive where it said too much."""
        if self.finished is None:
            return None
        return 100 * (self.finished.estimated_seconds / self.finished.seconds - 1)

    @property
    def errors_percent(self) -> list[float]:
        """Of each estimate of the rest, in per cent of the whole time."""
        return [
            100 * (at + one.seconds_left - self.ended_at) / self.ended_at
            for at, one in self.estimates
        ]


def prompts(session: int, functions: int) -> Iterator[list[dict[str, str]]]:
    """The prompts of one session: read anew, continued, a file edited, and the conversation grown before the files."""
    first = _file(f"parser_{session}", functions)
    second = _file(f"writer_{session}", functions)
    said: list[str] = []
    for turn in range(4):
        if turn == 2:
            second = second.replace("total", "whole")
        history = [message for text in said for message in (_user(text), _assistant(text))]
        files = _user(f"{_FILES}\nparser.py\n```\n{first}```\n\nwriter.py\n```\n{second}```\n")
        question = f"What does function {turn} of these do, and how is it called? Say it briefly."
        yield [
            {"role": "system", "content": _SYSTEM},
            *history,
            files,
            _assistant("Ok, any changes I propose will be to those files."),
            _user(question),
        ]
        if turn == 2:
            said.append(question)


def _file(name: str, functions: int) -> str:
    return "".join(
        f"def {name}_{at}(rows, column={at}):\n"
        f'    """Sum column {at} of all rows of {name}."""\n'
        f"    total = {at}\n    for row in rows:\n        total += row[column] * {at + 3}\n"
        "    return total\n\n\n"
        for at in range(functions)
    )


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def ask(door: OpenDoor, messages: Sequence[dict[str, str]]) -> Told:
    """Send one prompt and note what is told meanwhile."""
    options = {"num_ctx": WINDOW_TOKENS, "num_predict": 4, "temperature": 0}
    body = {"model": SMALL_Q4, "messages": list(messages), "options": options}
    told, failed = Told(), list[Exception]()

    def send() -> None:
        try:
            httpx.post(f"{door.url}/api/chat", json=body, timeout=600, trust_env=False)
        except httpx.HTTPError as error:
            failed.append(error)

    sender = threading.Thread(target=send)
    begun = time.monotonic()
    sender.start()
    while not told.tokens:
        for event in _events(door):
            at = time.monotonic() - begun
            match event:
                case ReadingEstimated():
                    told.estimates.append((at, event))
                case ReadingFinished():
                    told.ended_at, told.finished = at, event
                case RequestFinished(prompt_tokens=int(tokens), cached_tokens=cached):
                    told.tokens = tokens
                    told.cached_tokens = cached if isinstance(cached, int) else -1
        if failed:
            raise failed[0]
    sender.join()
    return told


def _events(door: OpenDoor) -> list[Event]:
    select.select([door.sidecar], [], [], 1.0)
    return list(door.sidecar.read())


def measure(sessions: int, functions: int, *, unseen: bool) -> list[Told]:
    """All prompts of so many sessions, of which those that were long are told."""
    rig, found = ensure_rig(), list[Told]()
    with tempfile.TemporaryDirectory(prefix="aider-guard-bench-") as folder:
        path = Path(folder)
        with _server(rig, path, unseen=unseen) as server:
            for session in range(sessions):
                learned = str(path / f"learned-{session}")
                plain = settings_for(server.url, SMALL_Q4, WINDOW_TOKENS)
                settings = replace(plain, shows_progress=True, learned_dir=learned)
                with open_door(server.url, settings) as door:
                    for messages in prompts(session, functions):
                        found.append(ask(door, messages))
                        print(_row(found[-1]), flush=True)
    return found


def measure_steadily(sessions: int, functions: int) -> list[float]:
    """The errors of all estimates of the whole, in per cent, by the processor time of the model's process."""
    rig, errors = ensure_rig(), list[float]()
    with (
        tempfile.TemporaryDirectory(prefix="aider-guard-bench-") as folder,
        standin_ollama(rig, Path(folder) / "standin", "0.35.0") as server,
        httpx.Client(base_url=server.url, timeout=600, trust_env=False) as http,
    ):
        options = {"num_ctx": WINDOW_TOKENS, "num_predict": 1, "temperature": 0}
        body = {"model": SMALL_Q4, "stream": False, "options": options}
        http.post("/api/generate", json=body)
        shown = http.post("/api/show", json={"model": SMALL_Q4}).json()["model_info"]
        even = even_tokens(shown)
        assert isinstance(even, float)
        (child,) = psutil.Process(server.pid).children()
        words = child.cmdline()
        slots = f"http://127.0.0.1:{words[words.index('--port') + 1]}/slots"
        for session in range(sessions):
            pace = ReadingPace(even_tokens=even)
            for messages in prompts(session, functions):
                looks, answer = _looks(http, body | {"messages": messages}, slots, child)
                tokens = answer["prompt_eval_count"]
                known = answer["prompt_eval_cached_count"]
                seconds = looks[-1][0]
                found = list(_steady_errors(pace, looks, tokens, seconds))
                print(
                    f"{tokens:>7,} tokens, {known:>6,} cached, {seconds:5.1f} s: {found}",
                    flush=True,
                )
                errors += found
                pace = pace.with_sample(ReadingSample(known, tokens - known, seconds))
    return errors


Look = tuple[float, Slot | Unavailable]


def _looks(
    http: httpx.Client, body: dict[str, Any], slots: str, child: psutil.Process
) -> tuple[list[Look], dict[str, Any]]:
    """What the process shows while a prompt is read, with its processor time since; and the answer."""
    answers, looks = list[dict[str, Any]](), list[Look]()
    sender = threading.Thread(
        target=lambda: answers.append(http.post("/api/chat", json=body).json())
    )
    begun = sum(child.cpu_times()[:2])
    sender.start()
    while sender.is_alive():
        looked = working_slot(httpx.get(slots, trust_env=False).json())
        looks.append((sum(child.cpu_times()[:2]) - begun, looked))
        sender.join(0.1)
    return looks, answers[0]


def _steady_errors(
    pace: ReadingPace, looks: list[Look], tokens: int, seconds: float
) -> Iterator[float]:
    """Of the estimate after each piece that was read, and of the first."""
    position = None
    for at, slot in looks:
        if not isinstance(slot, Slot) or slot.answers:
            continue
        if position is None or slot.read_tokens > position.read_tokens:
            since = at if slot.read_tokens else 0.0
            position = ReadingPosition(tokens, slot.cached_tokens, slot.read_tokens, since)
            left = seconds_left(pace, position, at)
            if position.unread_tokens > LEAST_TOKENS and isinstance(left, float):
                yield round(100 * ((at + left) / seconds - 1), 1)


def _server(rig: Rig, folder: Path, *, unseen: bool) -> AbstractContextManager[PrivateOllama]:
    if unseen:
        return private_ollama(rig.ollama, rig.models, folder=folder)
    return standin_ollama(rig, folder / "standin", "0.35.0")


def _row(told: Told) -> str:
    if told.finished is None:
        return f"{told.tokens:>7,} tokens, {told.cached_tokens:>6,} cached: not long"
    first, of = told.first_error_percent, told.finished
    spread = ", ".join(f"{error:+.0f}" for error in told.errors_percent)
    return (
        f"{told.tokens:>7,} tokens, {told.cached_tokens:>6,} cached: told {of.estimated_seconds:5.1f} s, "
        f"took {of.seconds:5.1f} s ({first:+.0f} %); of the rest, %: {spread}"
    )


def main() -> None:
    """Measure, and print each prompt and the sum."""
    parser = argparse.ArgumentParser(prog="python -m bench.reading", description=__doc__)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--functions", type=int, default=14, help="of each of the two files")
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--steady", action="store_true")
    options = parser.parse_args()
    if options.steady:
        _print_sum("all estimates", measure_steadily(options.sessions, options.functions))
        return
    found = measure(options.sessions, options.functions, unseen=options.unseen)
    first = [abs(e) for one in found if (e := one.first_error_percent) is not None]
    rest = [abs(error) for one in found for error in one.errors_percent]
    _print_sum("first estimate", first)
    _print_sum("all estimates", rest)


def _print_sum(name: str, errors: Sequence[float]) -> None:
    sizes = [abs(error) for error in errors]
    if sizes:
        within = 100 * sum(size <= AIM_PERCENT for size in sizes) / len(sizes)
        print(
            f"{name}: median {statistics.median(sizes):.0f} %, worst {max(sizes):.0f} %, "
            f"within {AIM_PERCENT} %: {within:.0f} % of {len(sizes)}"
        )


if __name__ == "__main__":
    main()
