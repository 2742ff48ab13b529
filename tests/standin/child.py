"""One ``llama-server`` below a stand-in: its start, its end, and what Ollama asks of it over HTTP.

The command line, the wait at the start and the words at the end are those of llm/llama_server.go.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from standin.log import of_child, slog
from standin.process_title import padded

SCRIPT: Final = Path(__file__).with_name("llama_server.py")
POLL_SECONDS: Final = 0.02
"""Ollama's own is 250 ms: a test would wait for that at each load."""
LONGEST_LINE_BYTES: Final = 16 * 1024 * 1024
READY: Final = "ok"
STOPPED: Final = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
    "error, check ollama server logs for details"
)
BROKEN: Final = "an error was encountered while running the model: unexpected EOF"
_BUFFER: Final = re.compile(
    r"(\w+):\s+(\S+)\s+(model|KV|compute|output|RS) buffer size\s*=\s*([\d.]+) MiB"
)
_MIB: Final = 1024**2


class ChildError(Exception):
    """What Ollama answers when its child fails: the status, and the words."""

    def __init__(self, words: str, status: int = 500) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class ChildProgram:
    """What is needed to run children: Python with the folder of ``xllamacpp``, and the path that they show."""

    python: Path
    packages: Path
    shown: Path


@dataclass(frozen=True)
class Launch:
    """What decides how a child is started; a request that needs another one has the model loaded anew."""

    window_tokens: int
    batch: int
    threads: int
    context_shift: bool
    keep: int
    parallel: int
    is_native: bool

    def words(self, program: Path, model: Path, port: int) -> list[str]:
        """The command line, in Ollama's order."""
        jinja = [] if self.is_native else ["--no-jinja", "--chat-template", "chatml"]
        shift = ["--context-shift", "--keep", str(self.keep)] if self.context_shift else []
        return [
            *(str(program), "--model", str(model), "--port", str(port), "--host", "127.0.0.1"),
            *("--no-webui", "--offline", "-c", str(self.window_tokens * self.parallel)),
            *("-np", str(self.parallel), "--log-verbosity", "4"),
            *("--no-log-prefix", "--no-log-timestamps", *jinja, "--load-mode", "none"),
            *("--flash-attn", "auto", "-b", str(self.batch), "-ub", str(self.batch)),
            *(["-t", str(self.threads)] if self.threads else []),
            *shift,
        ]


@dataclass
class Child:
    """A running ``llama-server``."""

    port: int
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    buffers: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Bytes, by what the log names: who has them, where, and for what."""
    logs_end: bool = True
    """Whether Ollama logs its end as an error: when it was not asked for, or when it had logged an error before."""
    _had_error: bool = False
    _reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, program: ChildProgram, launch: Launch, model: Path) -> Child:
        """Start one and wait until it has loaded its model. Raises ``ChildError``."""
        port = _free_port()
        words = launch.words(program.shown, model, port)
        slog("INFO", "llama_server.go:433", "starting llama-server", cmd=" ".join(words))
        command = padded([str(program.python), "-S", str(SCRIPT), str(os.getpid())], words)
        process = await asyncio.create_subprocess_exec(
            *command,
            env={"PYTHONPATH": f"{program.packages}:{SCRIPT.parents[1]}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LONGEST_LINE_BYTES,
        )
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps(words)}\n".encode())
        base = f"http://127.0.0.1:{port}"
        # Without certificates, which take long to read.
        client = httpx.AsyncClient(base_url=base, timeout=None, trust_env=False, verify=False)
        child = cls(port, process, client)
        child._reading = asyncio.create_task(child._read_log())
        try:
            await child._ready()
        except BaseException:
            await child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.returncode is not None

    async def answers(self) -> bool:
        """Whether it is there, which Ollama asks before each request (``Ping``)."""
        return not self.has_ended and await self._status() == READY

    def memory_bytes(self) -> tuple[int, int]:
        """What it has allocated, by its own log: all, and on cards."""
        cards = (size for (_, where, _), size in self.buffers.items() if _is_card(where))
        return sum(self.buffers.values()), sum(cards)

    async def stop(self) -> None:
        """Kill it, as Ollama does, and wait for its end."""
        self.logs_end = self._had_error
        await self._break()
        await self.client.aclose()

    async def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a short question. Raises ``ChildError``."""
        try:
            answer = await self.client.post(path, json=body)
        except httpx.TransportError as error:
            raise ChildError(f"llama-server {path} error: {error}") from error
        if answer.is_error:
            raise ChildError(answer.text.strip(), answer.status_code)
        return answer.json()

    async def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, with the one at the beginning that the model may want, and with special ones."""
        answer = await self.ask("/tokenize", {"content": text, "add_special": True})
        return [int(token) for token in answer["tokens"]]

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return str((await self.ask("/detokenize", {"tokens": tokens}))["content"])

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
        """The pieces of an answer. A client that leaves early cancels it. Raises ``ChildError``."""
        try:
            async with self.client.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    text = (await answer.aread()).decode()
                    raise ChildError(text.strip(), answer.status_code)
                yield self._pieces(answer)
        except httpx.TransportError as error:
            await self._break()
            raise ChildError(STOPPED) from error

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[Any]:
        try:
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))
        except httpx.TransportError as error:
            await self._break()
            raise ChildError(BROKEN) from error

    async def _break(self) -> None:
        """End a child that broke off, and have all that it said in the log."""
        if not self.has_ended:  # asyncio's own kill() would take the status from asyncio's wait()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        await self.process.wait()
        if self._reading is not None:
            await self._reading

    async def _ready(self) -> None:
        since = time.monotonic()
        slog("INFO", "llama_server.go:1295", "waiting for llama-server to start responding")
        said = None
        while True:
            if self.has_ended:
                raise ChildError(f"llama-server process has terminated: {self._exit_words()}")
            status = await self._status()
            if status == READY:
                break
            if status != said:
                words = "waiting for llama-server to become available"
                slog("INFO", "llama_server.go:1350", words, status=status)
            said = status
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.monotonic() - since
        words = f"llama-server started in {seconds:.2f} seconds"
        slog("INFO", "llama_server.go:1362", words)

    async def _status(self) -> str:
        try:
            answer = await self.client.get("/health")
        except httpx.TransportError:
            return "llm server not responding"
        return READY if answer.is_success else "llm server loading model"

    async def _read_log(self) -> None:
        """Pass its log on, and add up what it allocates, as ``memoryParsingWriter`` does."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            plain = of_child(line.decode("utf-8", "replace").rstrip("\n"))
            self._had_error = self._had_error or " error: " in plain
            if found := _BUFFER.search(plain):
                self.buffers[found[1], found[2], found[3]] = int(float(found[4]) * _MIB)
        await self.process.wait()
        if self.process.returncode and self.logs_end:
            words = {"error": self._exit_words(), "exit": "unknown"}
            slog("ERROR", "llama_server.go:1023", "llama-server terminated", **words)

    def _exit_words(self) -> str:
        """How it ended, as Go says it."""
        status = self.process.returncode or 0
        return "signal: killed" if status < 0 else f"exit status {status}"


def _is_card(where: str) -> bool:
    """Whether a buffer lies on a card (``isGPUBuffer``)."""
    return (
        where not in ("CPU", "BLAS")
        and not where.startswith("CPU_")
        and not where.endswith("_Host")
    )


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])
