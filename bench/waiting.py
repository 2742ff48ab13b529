"""What is waited for in a session as people have it: bare Aider, guarded without and with reading ahead, and the floor.

``python -m bench.waiting``. Three files of together about 6,000 tokens, an edit in every second turn, and a pause of
the user's between turns. The model is real and reads every prompt, on a stand-in for an Ollama of today; what it would
answer is replaced by a script, as a model so small cannot edit. The floor is the guarded session's requests once more,
each after all of it but its message was read: nothing but the message is waited for, and the 200 tokens of rules that
Aider puts behind it (800 with ``--edit-format diff``). With six layers and two threads the models read 6,000 tokens in
six seconds, as they do on a card.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from e2e.bare import UNASKED, Bare
from e2e.people import Guarded, Onlooker
from standin.gguf_file import rewritten
from standin.models import ModelStore
from standin.program import standin_ollama
from standin.sample_models import GEMMA, add_gemma

from aider_guard.demo.layout import SMALL, Rig, cache_folder, rig_in
from aider_guard.demo.model import PARAMETERS
from aider_guard.demo.sample import make_sample
from bench.talks import prompted, timed

WINDOW_TOKENS = 16384
TRAINED_TOKENS = 32768
FILES = ("till/fruit.py", "till/bread.py", "till/drinks.py")
LINES_A_FILE = 75
SHALLOW = "shallow"
WHOLE, DIFF = "whole", "diff"
_ROW = "{:44}{:>12}{:>12}{:>12}{:>12}   {}"


@dataclass
class Reading:
    """A request of the user's, and how long its first token took, in seconds."""

    body: dict[str, Any]
    first_seconds: float


class ScriptedRelay(ThreadingHTTPServer):
    """Leads to one Ollama, which reads each prompt and begins an answer; the rest of the answer is the script's."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str, edits: Path, edit_format: str, threads: int) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.repo = edits
        self.edit_format = edit_format
        self.threads = threads
        self.readings: list[Reading] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""

    def answer(self, body: Mapping[str, Any]) -> str:
        """What the script says to a request."""
        asked = body["messages"][0]["content"]
        if "commit messages" in asked:
            return "refactor: mark a line"
        if asked.startswith("*Briefly* summarize"):
            return "I asked you for prices, and to mark files, and you did both."
        line = body["messages"][-1]["content"].split("\n", 1)[0]
        if not line.startswith("Mark "):
            return "It adds the price of each thing, in cents, and that is all of it."
        name = line.split()[1]
        whole = (self.repo / name).read_text()
        old, rest = whole.split("\n", 1)
        if self.edit_format == WHOLE:
            return f"I mark it.\n\n{name}\n```\n{old}#\n{rest}```\n"
        block = f"<<<<<<< SEARCH\n{old}\n=======\n{old}#\n>>>>>>> REPLACE"
        return f"I mark it.\n\n{name}\n```python\n{block}\n```\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ScriptedRelay

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else {}
        options = body.get("options") or {}
        is_read_ahead = options.get("num_predict") == 1 or body.get("_debug_render_only")
        is_text = self.path == "/api/chat" and bool(body.get("messages")) and not is_read_ahead
        if self.path in ("/api/chat", "/api/generate"):
            asked = {**options, "num_thread": self.server.threads}
            asked |= {"num_predict": 2} if is_text else {}
            content = json.dumps({**body, "options": asked}).encode()
        upstream = http.client.HTTPConnection(self.server.upstream)
        with contextlib.closing(upstream):
            began = time.monotonic()
            headers = {"Content-Type": "application/json"} if content else {}
            upstream.request(self.command, self.path, content, headers)
            answer = upstream.getresponse()
            pieces = [answer.read1(65536)]
            first_seconds = time.monotonic() - began
            while piece := answer.read1(65536):
                pieces.append(piece)
        told = b"".join(pieces)
        if is_text and answer.status == http.client.OK:
            told = self._scripted(body, told)
            if body.get("stream") is not False:
                self.server.readings.append(Reading(body, first_seconds))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", ""))
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET  # noqa: N815  # the base class's names
    do_HEAD = do_GET  # noqa: N815

    def _scripted(self, body: Mapping[str, Any], told: bytes) -> bytes:
        *_, last = (json.loads(line) for line in told.splitlines() if line)
        message = {"role": "assistant", "content": self.server.answer(body)}
        if body.get("stream") is False:
            return json.dumps({**last, "message": message, "done_reason": "stop"}).encode()
        first = {"model": last["model"], "message": message, "done": False}
        end = {**last, "done_reason": "stop", "message": {"role": "assistant", "content": ""}}
        return b"".join(json.dumps(line).encode() + b"\n" for line in (first, end))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""


@dataclass
class Way:
    """One way's session: how long each turn's first token took, and what was told of reading ahead."""

    name: str
    readings: list[Reading]
    read_tokens: int = 0
    wasted_tokens: int = 0
    compared: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Of each turn."""
        return [reading.first_seconds for reading in self.readings]


@dataclass(frozen=True)
class ReadingBench:
    """A stand-in with a real model, and what a session on it is made of."""

    rig: Rig
    ollama_url: str
    folder: Path
    model: str
    edit_format: str
    turns: int
    pause_seconds: float
    threads: int

    @property
    def arguments(self) -> list[str]:
        """Aider's."""
        return [
            *("--model", f"ollama_chat/{self.model}", "--no-gitignore"),
            *("--edit-format", self.edit_format),
            *("--no-show-model-warnings", "--map-tokens", "512", *FILES),
        ]

    def lines(self) -> list[str]:
        """What the user says."""
        return [
            f"Mark {FILES[turn // 2 % len(FILES)]} as it was"
            if turn % 2
            else f"What does number {turn} of them add?"
            for turn in range(self.turns)
        ]

    def bare(self) -> Way:
        """Aider alone."""

        def session(env: dict[str, str], repo: Path) -> None:
            command = [str(self.rig.aider_command), *self.arguments, *UNASKED]
            with Bare(command, env=env, cwd=repo, rows=40) as person:
                person.wait_for(person.is_asked)
                for line in self.lines():
                    self._pause(person)
                    timed(person, line, person.is_asked)
                person.say("/exit")
                person.end()

        return self._measure("bare", session)

    def guarded(self, read_ahead: str) -> Way:
        """The same under the guard."""
        journal: list[dict[str, Any]] = []

        def session(env: dict[str, str], repo: Path) -> None:
            options = ["--num-ctx", str(WINDOW_TOKENS), "--read-ahead", read_ahead]
            aider = str(self.rig.aider_command)
            with Guarded(
                aider, self.arguments, options=[*options, "--probe", "never"], env=env, cwd=repo
            ) as person:
                person.wait_for_prompt()
                for seen, line in enumerate(self.lines(), 1):
                    self._pause(person)
                    timed(person, line, prompted(person, seen + 1))
                journal.extend(person.journal())
                person.type(b"/exit\r")
                person.end()

        way = self._measure(f"ahead {read_ahead}", session)
        for line in journal:
            if line["event"] == "prompt_read_ahead":
                way.read_tokens += line["tokens"] - line["cached_tokens"]
            elif line["event"] == "next_prompt_compared":
                way.compared.append(line["matched_percent"])
                way.wasted_tokens += line["read_tokens"] * (100 - line["matched_percent"]) // 100
        return way

    def floor(self, way: Way) -> Way:
        """What was asked, asked again when all but its message is read."""
        readings = []
        with httpx.Client(base_url=self.ollama_url, timeout=900, trust_env=False) as client:
            for reading in way.readings:
                *head, _ = reading.body["messages"]
                options = {**reading.body["options"], "num_predict": 1, "num_thread": self.threads}
                asked = {**reading.body, "stream": False, "options": options}
                ahead = {**asked, "messages": [*head, {"role": "user", "content": "."}]}
                client.post("/api/chat", json=ahead).raise_for_status()
                began = time.monotonic()
                client.post("/api/chat", json=asked).raise_for_status()
                readings.append(Reading(reading.body, time.monotonic() - began))
        return Way("floor", readings)

    def _pause(self, person: Onlooker) -> None:
        """The user reads and types."""
        over = time.monotonic() + self.pause_seconds
        person.wait_for(lambda: time.monotonic() > over, self.pause_seconds + 60)

    def _measure(self, name: str, session: Callable[[dict[str, str], Path], None]) -> Way:
        folder = self.folder / name.replace(" ", "-")
        repo = sample(folder / "till")
        (folder / "home").mkdir()
        self._unload()
        with ScriptedRelay(self.ollama_url, repo, self.edit_format, self.threads) as relay:
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            env = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "home"),
                "LANG": "C.UTF-8",
                "TERM": "xterm-256color",
                "AIDER_GUARD_STATE_DIR": str(folder / "state"),
                "OLLAMA_API_BASE": relay.url,
            }
            try:
                session(env, repo)
            finally:
                relay.shutdown()
        way = Way(name, relay.readings)
        print(f"{name}: " + ", ".join(f"{one:.2f}" for one in way.seconds), flush=True)
        return way

    def _unload(self) -> None:
        body = {"model": self.model, "keep_alive": 0}
        httpx.post(f"{self.ollama_url}/api/generate", json=body, timeout=60, trust_env=False)


def sample(folder: Path) -> Path:
    """The sample repository with three files of about 2,000 tokens each."""
    make_sample(folder)
    for number, name in enumerate(FILES):
        lines = [
            f"def price_{number}_{line}(count: int) -> int: return count * {line * 7 + number}"
            for line in range(LINES_A_FILE)
        ]
        (folder / name).write_text("# prices\n" + "\n".join(lines) + "\n")
    return folder


def add_models(models: Path, rig: Rig, layers: int) -> None:
    """Make the small model, trained for as much as today's, and gemma3-270m (sliding attention), with fewer layers."""
    store = ModelStore(models)
    small = store.find(SMALL)
    assert small is not None
    content = rewritten(small.file, layers=layers, trained_tokens=TRAINED_TOKENS)
    body = {"template": small.template, "parameters": PARAMETERS}
    store.create(SHALLOW, {"files": {"model.gguf": store.add_blob(content)}, **body})
    add_gemma(models, rig, layers)


@contextlib.contextmanager
def place(rig: Rig, options: argparse.Namespace) -> Iterator[ReadingBench]:
    """A stand-in of its own with the models."""
    with tempfile.TemporaryDirectory(prefix="aider-guard-waiting-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        with standin_ollama(
            rig,
            folder / "server",
            add_models=lambda models: add_models(models, rig, options.layers),
        ) as server:
            yield ReadingBench(
                rig,
                server.url,
                folder,
                options.model,
                options.edit_format,
                options.turns,
                options.pause_seconds,
                options.threads,
            )


def rows(ways: Sequence[Way]) -> Iterator[str]:
    """The table, in seconds to the first token."""
    yield _ROW.format("seconds to the first token", *(way.name for way in ways), "aim").rstrip()
    for turn, seconds in enumerate(zip(*(way.seconds for way in ways), strict=True), 1):
        yield _ROW.format(f"turn {turn}", *(f"{one:.2f}" for one in seconds), "").rstrip()
    medians = [statistics.median(way.seconds) for way in ways]
    bare, _, ahead, floor = medians
    aim = f"8 times faster than bare, 1.3 times the floor: {bare / ahead:.1f}, {ahead / floor:.2f}"
    yield _ROW.format("median", *(f"{one:.2f}" for one in medians), aim).rstrip()
    yield _ROW.format("all", *(f"{sum(way.seconds):.1f}" for way in ways), "").rstrip()
    with_ahead = ways[2]
    yield (
        f"read ahead: {with_ahead.read_tokens:,} tokens, of which {with_ahead.wasted_tokens:,} were not"
        f" used; the prompts began with {with_ahead.compared} % of what was expected"
    )


def measure(bench: ReadingBench) -> list[Way]:
    """Each way once."""
    bare, off, on = bench.bare(), bench.guarded("off"), bench.guarded("on")
    return [bare, off, on, bench.floor(on)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--turns", type=int, default=8, help="messages in each session")
    parser.add_argument("--pause-seconds", type=float, default=20, help="between turns")
    parser.add_argument("--model", choices=(SHALLOW, GEMMA), default=SHALLOW)
    parser.add_argument("--threads", type=int, default=2, help="that the model reads with")
    parser.add_argument("--layers", type=int, default=6, help="of the model, where it has more")
    parser.add_argument(
        "--edit-format",
        choices=(WHOLE, DIFF),
        default=WHOLE,
        help="Aider's; whole is its own choice",
    )
    options = parser.parse_args()
    with place(rig_in(cache_folder()), options) as bench:
        for row in rows(measure(bench)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
