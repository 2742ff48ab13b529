"""Restarts of the real Aider, with the next one started ahead and without, taking turns.

``python -m bench.restarts``. A scripted server answers at once. Each turn makes a restart due; the clock runs from the
prompt after that turn to the prompt of the next Aider, by the journal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from e2e.people import Guarded, Onlooker
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

from aider_guard.demo.layout import cache_folder, rig_in
from aider_guard.demo.sample import make_sample

MODEL = FakeModel("small:latest", size_bytes=0, vram_bytes=0, trained_tokens=8192)
"""A model without memory: a restart does not wait for that to be free."""
ARGUMENTS = (
    *("--model", "ollama_chat/small", "--chat-mode", "ask", "--no-show-model-warnings"),
    *("--no-gitignore", "till/prices.py", "tests/test_prices.py"),
)
SERIAL = """
import aider_guard.core.rules.standby as standby
standby.is_wanted = lambda _state, _now: False
from aider_guard.__main__ import main
main()
"""
"""The guard without an Aider that is started ahead."""


class Started(Guarded):
    """A guard with any command line."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str], **layout: Any) -> None:
        self.state = Path(env["AIDER_GUARD_STATE_DIR"])
        Onlooker.__init__(self, command, env=env, **layout)


@dataclass
class Gaps:
    """What was measured of one way."""

    seconds: list[float] = field(default_factory=list)
    standby_bytes: list[int] = field(default_factory=list)

    def row(self, name: str) -> str:
        """Median and spread."""
        tenths = statistics.quantiles(self.seconds, n=10)
        held = ""
        if self.standby_bytes:
            held = f", {statistics.median(self.standby_bytes) / 1e6:.0f} MB waiting"
        return (
            f"{name}: median {statistics.median(self.seconds):.2f} s, p10 to p90"
            f" {tenths[0]:.2f} to {tenths[-1]:.2f} s, n = {len(self.seconds)}{held}"
        )


def measure(folder: Path, aider: str, sessions: int, restarts: int) -> tuple[Gaps, Gaps]:
    """Sessions of each way, taking turns: today's, and with an Aider that was started ahead."""
    serial, ahead = Gaps(), Gaps()
    for number in range(sessions):
        for name, gaps in (("serial", serial), ("ahead", ahead)):
            with FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server:
                place = folder / f"{name}-{number}"
                for gap, held in restarted(place, server.url, aider, restarts, name == "ahead"):
                    print(f"  {name}: {gap:.2f} s", flush=True)
                    gaps.seconds.append(gap)
                    gaps.standby_bytes += held
    return serial, ahead


def restarted(
    place: Path, url: str, aider: str, restarts: int, is_ahead: bool
) -> Iterator[tuple[float, list[int]]]:
    """One session: the seconds of each restart, and what the Aider that waited for it held."""
    repo = make_sample(place / "till")
    (place / "home").mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(place / "state"),
        "OLLAMA_API_BASE": url,
    }
    options = ["--num-ctx", "4096", "--max-turns", "1"]
    program = [sys.executable, *(["-m", "aider_guard"] if is_ahead else ["-c", SERIAL])]
    command = [*program, "--aider", aider, *options, "--", *ARGUMENTS]
    with Started(command, env=env, cwd=repo, rows=40, columns=160) as person:
        person.wait_for_prompt()
        for count in range(1, restarts + 1):
            if is_ahead:
                person.wait_for_event("standby_ready", count)
            person.wait_for_event("models_read")
            person.ask(f"message {count}")
            began = person.journal("prompt_shown")[-1]["t"]
            started = person.wait_for_event("aider_started", count + 1)["t"]
            shown = partial(_newest_prompt_is_later, person, started)
            person.wait_for(shown)
            yield (
                person.journal("prompt_shown")[-1]["t"] - began,
                [line["memory_bytes"] for line in person.journal("standby_ready")[count - 1 :]],
            )
            if is_ahead:  # the user reads on: nothing of this restart is left for the next
                person.wait_for_event("retired_exited", count)
        person.type(b"/exit\r")
        person.end()


def _newest_prompt_is_later(person: Guarded, than: float) -> bool:
    return bool(person.journal("prompt_shown")[-1]["t"] > than)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.restarts", description=__doc__)
    parser.add_argument("--sessions", type=int, default=4, help="sessions of each way")
    parser.add_argument("--restarts", type=int, default=5, help="restarts in each session")
    options = parser.parse_args()
    aider = str(rig_in(cache_folder()).aider_command)
    with tempfile.TemporaryDirectory(prefix="aider-guard-restarts-") as folder:
        serial, ahead = measure(Path(folder), aider, options.sessions, options.restarts)
    print(serial.row("one after the other"))
    print(ahead.row("started ahead"), flush=True)


if __name__ == "__main__":
    main()
