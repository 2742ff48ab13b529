"""A program that Aider starts floods the door without the token, and the session goes on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from fakes.ollama_chat import Talking
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama

if TYPE_CHECKING:
    from e2e.desk import Desk

MODEL = FakeModel("small:latest", size_bytes=300 * 1024**2, vram_bytes=0, trained_tokens=8192)
FLOOD = """
import contextlib, os, pathlib, resource, socket, sys, time, urllib.parse
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address = urllib.parse.urlsplit(os.environ["OLLAMA_API_BASE"])
place = (address.hostname, address.port)
kept = [socket.create_connection(place) for _ in range(1400)]
large = socket.create_connection(place)
with contextlib.suppress(OSError):
    large.sendall(b"GET / HTTP/1.1\\r\\n")
    for _ in range(600):
        large.sendall((b"X: " + b"y" * 995 + b"\\r\\n") * 1000)
pathlib.Path(sys.argv[1]).write_text("done")
time.sleep(600)
"""


def test_1400_connections_and_600_mb_of_a_head_do_not_stop_a_session(
    desk: Desk, tmp_path: Path
) -> None:
    """The next message is answered, and the sidecar is no larger than before."""
    flood, done = tmp_path / "flood.py", tmp_path / "done"
    flood.write_text(FLOOD)
    with (
        FakeOllama(models=(MODEL,), talking=Talking(says="It is well.")) as server,
        desk.session(server.url) as person,
    ):
        person.wait_for_prompt()
        person.say("first")
        person.wait_for_event("turn_finished")
        sidecar = psutil.Process(person.sidecar_pid())
        before = sidecar.memory_info().rss
        words = shlex.join([sys.executable, str(flood), str(done)])
        person.say(f"/run ({words} </dev/null >/dev/null 2>&1 &)")
        person.wait_for(r"command output to the chat\?")
        person.say("n")
        person.wait_for_prompt(3)
        person.wait_for(done.exists)
        person.say("second")
        person.wait_for_event("turn_finished", 2)
        assert len(server.chats) == 2
        assert sidecar.memory_info().rss - before < 24 * 1024**2
        assert sidecar.num_fds() < 200
        person.type(b"\x15/exit\r")
        assert person.end() == 0
