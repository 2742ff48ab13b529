"""The private server answers, shares its models, says what went wrong, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from e2e.conftest import PRIVATE

from aider_guard.demo.answers import check_answer
from aider_guard.demo.layout import RigError
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig

pytestmark = pytest.mark.servers(PRIVATE)
GONE_SECONDS = 15


def chat(server: PrivateOllama, model: str = "small") -> str:
    """Ask for a few tokens and return them."""
    request = {
        "model": model,
        "stream": False,
        "messages": [{"role": "user", "content": "Say hello."}],
        "options": {"num_predict": 4, "num_ctx": 512},
    }
    answer = httpx.post(
        f"{server.url}/api/chat", json=request, timeout=120, trust_env=False, verify=False
    )
    return str(answer.raise_for_status().json()["message"]["content"])


def family(pid: int) -> list[psutil.Process]:
    """Return the process and everything it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    """Wait until all of them have ended; zombies have ended too."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)

    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_the_server_answers_counts_its_loads_and_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    """Both models answer, each load is counted once, and server and runners end with the block."""
    with private_ollama(rig.ollama, rig.models, folder=tmp_path) as server:
        answers = [chat(server), chat(server), chat(server, "small-q4")]
        processes = family(server.pid)
        loads, loaded = server.loads(), server.loaded()

    assert all(answers)
    assert loads == 2
    assert sorted(loaded) == ["small-q4:latest", "small:latest"]
    assert len(processes) == 3
    assert_gone(processes)
    assert (tmp_path / "ollama.log").stat().st_size > 0


@pytest.mark.parametrize("model", ["small", "small-q4"])
def test_the_models_answer_sense_on_this_machine(ollama: PrivateOllama, model: str) -> None:
    """The answer that each installation is checked by; a build may compute wrongly on some processors."""
    assert "Paris" in check_answer(ollama.url, model)


def test_two_servers_share_the_models_and_change_nothing(rig: Rig, tmp_path: Path) -> None:
    """Two servers at once answer from the same folder, and the folder is as it was."""
    before = sorted(rig.models.rglob("*"))
    (tmp_path / "other").mkdir()
    with (
        private_ollama(rig.ollama, rig.models, folder=tmp_path) as one,
        private_ollama(rig.ollama, rig.models, folder=tmp_path / "other") as other,
    ):
        answers = [chat(one), chat(other)]

    assert one.url != other.url
    assert all(answers)
    assert sorted(rig.models.rglob("*")) == before


def test_unload_frees_the_model(ollama: PrivateOllama) -> None:
    """A model that was asked to go is loaded anew by the next request."""
    chat(ollama)
    loads = ollama.loads()
    ollama.unload("small")
    chat(ollama)

    assert ollama.loads() == loads + 1


def test_a_server_that_was_killed_leaves_no_runner(rig: Rig, tmp_path: Path) -> None:
    """The runner of a server killed with -9 ends with the block."""
    with private_ollama(rig.ollama, rig.models, folder=tmp_path) as server:
        chat(server)
        processes = family(server.pid)
        os.kill(server.pid, signal.SIGKILL)

    assert len(processes) == 2
    assert_gone(processes)


def test_a_server_comes_back_on_its_port_and_in_its_log(rig: Rig, tmp_path: Path) -> None:
    """With the port of the last one and the same folder, address and count of loads go on."""
    with private_ollama(rig.ollama, rig.models, folder=tmp_path) as first:
        chat(first)
    port = int(first.url.rpartition(":")[2])
    with private_ollama(rig.ollama, rig.models, port=port, folder=tmp_path) as second:
        chat(second)
        loads = second.loads()

    assert (second.url, loads) == (first.url, 2)


def test_a_port_that_is_taken_is_said(rig: Rig, ollama: PrivateOllama, tmp_path: Path) -> None:
    """A server that cannot start fails with the words of its log."""
    port = int(ollama.url.rpartition(":")[2])
    with (
        pytest.raises(RigError, match="address already in use"),
        private_ollama(rig.ollama, rig.models, port=port, folder=tmp_path),
    ):
        pass


def test_the_server_dies_with_the_process_that_started_it(rig: Rig) -> None:
    """A guard killed with -9 leaves no server."""
    program = (
        "import sys; from pathlib import Path; from aider_guard.demo.ollama_server import *\n"
        "with private_ollama(Path(sys.argv[1]), Path(sys.argv[2])) as server:\n"
        "    print(server.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(rig.ollama), str(rig.models)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout is not None
        processes = family(int(owner.stdout.readline()))
        owner.kill()

    assert_gone(processes)
