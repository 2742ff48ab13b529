"""The private Ollama server, for the length of a ``with``.

It listens on a free loopback port. It runs in a session of its own, so the terminal's Ctrl-C does
not reach it, and is told by the kernel when the process that started it dies (prctl(2),
PR_SET_PDEATHSIG). Its environment is made from nothing: no proxy, no key and no OLLAMA_ setting
of the user's reaches it, and its HOME (it writes a key there) is a folder of this run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from aider_guard.demo.layout import RigError

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02
LAST_LINES = 15

_LISTENING = re.compile(rb'msg="Listening on 127\.0\.0\.1:(\d+) ')
_RUNNER_START = re.compile(rb'msg="starting (?:llama[ -]server|runner)"')  # one for each load
_PR_SET_PDEATHSIG = 1
_LAUNCHER = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started the server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class PrivateOllama:
    """A running server. Its log outlives it when the caller chose the folder."""

    url: str
    pid: int
    log_path: Path

    def loads(self) -> int:
        """Return how often a runner was started: a model was loaded, or loaded anew."""
        return len(_RUNNER_START.findall(self.log_path.read_bytes()))

    def loaded(self) -> list[str]:
        """Return the names of the models in memory, as ``/api/ps`` has them."""
        answer = httpx.get(f"{self.url}/api/ps", timeout=12, trust_env=False).raise_for_status()
        return [model["name"] for model in answer.json()["models"]]

    def unload(self, model: str) -> None:
        """Ask for ``model`` to leave the memory; the answer comes before its process has ended."""
        request = {"model": model, "keep_alive": 0}
        httpx.post(
            f"{self.url}/api/generate", json=request, timeout=30, trust_env=False
        ).raise_for_status()


@contextmanager
def private_ollama(
    program: Path, models: Path, *, port: int = 0, folder: Path | None = None
) -> Iterator[PrivateOllama]:
    """Run the server that `install_ollama` put into ``program`` on the models in ``models``.

    Servers that run at the same time may share ``models``; none of them removes anything there.
    Port 0 is a free one. The log is ``ollama.log`` in ``folder``, by default a temporary one that
    goes with the server; in a folder that has a log already, the new server's lines are appended.

    Raises:
        RigError: the server does not answer within a minute, or ends before; with the log's last
        lines.
    """
    holder = nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="aider-guard-")
    with holder as chosen:
        home = Path(chosen).absolute()
        log_path = home / "ollama.log"
        with log_path.open("ab") as log:
            start = log.tell()
            process = _spawn(program, _environ(program, models, home, port), log.fileno())
        try:
            url = _await_url(process, log_path, start)
            yield PrivateOllama(url, process.pid, log_path)
        finally:
            process.terminate()  # it ends its runners; then goes what is left of its process group
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environ(program: Path, models: Path, home: Path, port: int) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LD_LIBRARY_PATH": f"{program / 'lib'}:{program / 'server'}",
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NOPRUNE": "1",  # a server that starts must not remove what another one is creating
        "OLLAMA_NUM_GPU": "0",
        "OLLAMA_NUM_PARALLEL": "1",
        "KMP_BLOCKTIME": "0",  # Intel's OpenMP threads otherwise spin for 200 ms after each token
        "GIN_MODE": "release",
    }


def _spawn(program: Path, environ: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    server = program / "server"
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
    return subprocess.Popen(
        [*command, server / "ollama-lib", "serve"],
        cwd=server,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _await_url(process: subprocess.Popen[bytes], log_path: Path, start: int) -> str:
    """Return the server's address once it answers there. With port 0 only its log knows the port."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if listening := _LISTENING.search(log_path.read_bytes(), start):
            url = f"http://127.0.0.1:{int(listening[1])}"
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/api/version", timeout=5, trust_env=False).is_success:
                    return url
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(POLL_SECONDS)
            raise RigError(f"The private Ollama ended with status {status}.{_tail(log_path)}")
    raise RigError(
        f"The private Ollama did not answer within {START_TIMEOUT_SECONDS:g} s.{_tail(log_path)}"
    )


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return "".join(["\nIts log ends:", *(f"\n  {line}" for line in lines)]) if lines else ""
