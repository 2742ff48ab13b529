"""The log of a fake Ollama, as its version writes it (facts of slog, gin and llama-server)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fakes.ollama_forms import now


@dataclass(frozen=True)
class Log:
    """Lines at the end of a file; nothing without one."""

    path: Path | None
    version: tuple[int, ...]

    def write(self, lines: Iterable[str]) -> None:
        """Add lines, with the time of now where they carry one."""
        if self.path is None:
            return
        stamp = re.compile(r"^time=\S*")
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{stamp.sub(f'time={now()}', line)}\n" for line in lines)

    def listening(self, address: str, version: str) -> None:
        """The server has started."""
        words = f'msg="Listening on {address} (version {version})"'
        self.write([f"time= level=INFO source=routes.go:1288 {words}"])

    def loading(self, window_tokens: int) -> None:
        """A runner is started with this window."""
        if self.version >= (0, 30):
            command = f"llama-server --port 40001 -c {window_tokens} -np 1 --log-verbosity 4"
            words = f'msg="starting llama-server" cmd="{command}"'
        elif self.version >= (0, 11, 11):
            words = 'msg="starting runner" cmd="ollama runner --ollama-engine --port 40001"'
        else:
            command = f"ollama runner --ctx-size {window_tokens} --parallel 1 --port 40001"
            words = f'msg="starting llama server" cmd="{command}"'
        self.write([f"time= level=INFO source=server.go:431 {words}"])

    def loaded(self, seconds: float) -> None:
        """It is ready."""
        process = "llama-server" if self.version >= (0, 30) else "llama runner"
        words = f'msg="{process} started in {seconds:.2f} seconds"'
        self.write([f"time= level=INFO source=server.go:637 {words}"])

    def called(self, path: str, status: int, seconds: float) -> None:
        """A request is over."""
        stamp = now()[:19].replace("-", "/").replace("T", " - ")
        words = f'{status} | {seconds:.6f}s |       127.0.0.1 | POST     "{path}"'
        self.write([f"[GIN] {stamp} | {words}"])
