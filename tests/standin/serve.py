"""Runs a stand-in as the program ``ollama serve``: its settings, its socket, its end."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from standin import process_title
from standin.app import StandinApp
from standin.child import ChildProgram
from standin.log import slog
from standin.models import ModelStore
from standin.scheduler import Scheduler, ServerSettings, seconds

LOGS_TEMPLATES_SINCE = (0, 30, 1)
IDLE_SECONDS = 24 * 3600
"""How long a connection may wait for its next request: Go's server closes none."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`, which has children to end."""
        yield


async def serve(version: str, program: ChildProgram) -> None:
    """Serve until SIGTERM or SIGINT; the children end before."""
    settings = read_settings()
    sock = _listening_socket(os.environ.get("OLLAMA_HOST", "127.0.0.1:11434"))
    host, port = sock.getsockname()[:2]
    _log_start(f"{host}:{port}", version, settings)
    numbers = tuple(int(part) for part in version.partition("-")[0].split("."))
    quiet = numbers < LOGS_TEMPLATES_SINCE
    scheduler = Scheduler(program, settings, quiet=quiet)
    store = ModelStore(Path(os.environ["OLLAMA_MODELS"]))
    server = _Server(
        uvicorn.Config(
            StandinApp(version, store, scheduler),
            lifespan="off",
            server_header=False,
            access_log=False,
            log_level=logging.CRITICAL,
            timeout_keep_alive=IDLE_SECONDS,
        )
    )

    def end() -> None:
        server.should_exit = server.force_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await server.serve(sockets=[sock])
    finally:
        await scheduler.close()


def read_settings() -> ServerSettings:
    """What the environment says."""
    environ, plain = os.environ, ServerSettings()

    def number(name: str, default: int) -> int:
        return int(environ.get(name) or 0) or default

    return ServerSettings(
        number("OLLAMA_CONTEXT_LENGTH", plain.window_tokens),
        number("OLLAMA_NUM_PARALLEL", plain.parallel),
        number("OLLAMA_MAX_LOADED_MODELS", plain.most_loaded),
        seconds(environ.get("OLLAMA_KEEP_ALIVE") or plain.keep_seconds),
        number("OLLAMA_MAX_QUEUE", plain.most_waiting),
    )


def main(version: str, program: ChildProgram) -> None:
    """Run as ``ollama serve``, as far as others can see."""
    process_title.show(["/usr/local/bin/ollama", "serve"])
    faulthandler.register(signal.SIGUSR1)  # its log then has where it is
    asyncio.run(serve(version, program))


def _listening_socket(address: str) -> socket.socket:
    parts = urlsplit(address if "//" in address else f"//{address}")
    sock = socket.create_server((parts.hostname or "127.0.0.1", parts.port or 0), backlog=128)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _log_start(address: str, version: str, settings: ServerSettings) -> None:
    shown = {
        "OLLAMA_CONTEXT_LENGTH": os.environ.get("OLLAMA_CONTEXT_LENGTH", "0"),
        "OLLAMA_HOST": f"http://{address}",
        "OLLAMA_KV_CACHE_TYPE": "",
        "OLLAMA_MODELS": os.environ["OLLAMA_MODELS"],
        "OLLAMA_NUM_PARALLEL": settings.parallel,
    }
    words = " ".join(f"{key}:{value}" for key, value in shown.items())
    slog("INFO", "routes.go:1951", "server config", env=f"map[{words}]")
    slog("INFO", "routes.go:2013", f"Listening on {address} (version {version})")
    tier = {"total_vram": "0 B", "default_num_ctx": settings.window_tokens}
    slog("INFO", "routes.go:2058", "vram-based default context", **tier)
