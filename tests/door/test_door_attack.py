"""Random requests of a program that wants something sent out: nothing that could leave passes, and nothing breaks."""

from __future__ import annotations

import os
import secrets

import pytest
from door.attack_run import Attack, leak_in
from door.plain_handler import PlainHandler
from door.scripted import TOKEN, door_to
from fakes.ollama_server import FakeOllama

REQUESTS = int(os.environ.get("AIDER_GUARD_TEST_REQUESTS", "5000"))
"""As many as take a few seconds; fewer where libraries are tried. ``python -m door.attack_run 100000`` sends more."""
LEFT_BYTES = 16 * 1024 * 1024


@pytest.mark.parametrize("is_new", [False, True], ids=["known", "new"])
def test_nothing_that_could_leave_the_machine_passes(
    is_new: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """By a reading that shares no code with the door's; many requests do pass, and memory stays as it was."""
    seed = secrets.randbelow(10**6) if is_new else 1
    report = Attack(seed).run(REQUESTS)
    assert report.leaks == [], f"seed {seed}"
    assert report.statuses[500] == 0, f"seed {seed}"
    assert report.passed > REQUESTS / 20, f"seed {seed}"
    assert report.grown_bytes < LEFT_BYTES, f"seed {seed}"
    assert capfd.readouterr().err == "", f"seed {seed}"


def test_the_reading_sees_what_passes_a_door_that_refuses_nothing() -> None:
    """Else the test above would show nothing."""
    report = Attack(3, refuse_cloud=False).run(1_000)
    kinds = {what for what, _, _ in report.leaks}
    assert kinds >= {"a name", "a path", "a search"}
    assert leak_in(b'{"model": "m", "from": "absent:1b"}', "/api/create") == "a base"


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PRI", "PROPFIND"])
def test_a_method_of_no_model_server_is_not_passed_on(
    method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The answer to a CONNECT ends with its head, whatever its Content-Length says."""
    with (
        FakeOllama() as ollama,
        door_to(PlainHandler(), ollama.url) as door,
        door.connect() as client,
    ):
        line = f"{method} http://127.0.0.1/{TOKEN}/api/version HTTP/1.1"
        client.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
        assert client.recv(65536)[:12] in (b"HTTP/1.1 405", b"HTTP/1.1 400")
        assert not ollama.received
    assert capfd.readouterr().err == ""
