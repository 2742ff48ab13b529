"""Which processes are Ollama's, and the memory reading, on real processes with those names."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from aider_guard.core.readings import (
    Gpu,
    GpuProcess,
    MemoryReading,
    RamReading,
    Unavailable,
)
from aider_guard.ollama.processes import FULL_LOOK_EVERY, ProcessTable
from aider_guard.sidecar.gpu import GpuSensor
from aider_guard.sidecar.memory import ELSEWHERE, MemorySensor, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.line_process import LineProcess

SHELL = Path("/bin/sh")
NO_GPU = Unavailable("no GPU in this test")


@contextmanager
def running(folder: Path, name: str, script: str = "echo READY; read line") -> Iterator[int]:
    """A shell under another name, which has printed READY; its pid."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.symlink_to(SHELL)
    with subprocess.Popen(
        [program, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        yield process.pid
        process.kill()


def refreshed() -> ProcessTable:
    """A table that has looked once."""
    table = ProcessTable()
    table.refresh()
    return table


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ollama", True),
        ("ollama-lib", True),
        ("lib/ollama/llama-server", True),
        ("mine/llama-server", False),
        ("my-ollama-proxy", False),
        ("sh", False),
    ],
)
def test_knows_its_own(tmp_path_factory: pytest.TempPathFactory, path: str, expected: bool) -> None:
    """Ollama's programs are known by name, a llama-server only by its path."""
    program = tmp_path_factory.mktemp("bin") / path
    with running(program.parent, program.name) as pid:
        table = refreshed()
        assert table.name(pid) == program.name
        assert table.is_ollama(pid) is expected
        assert (pid in table.ollama_pids()) is expected


def test_what_the_server_started_is_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A runner of any name belongs to the server above it, also when it outlives the server."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ready").write_text(
        "READY\n"
    )  # printed by cat itself: its process has its name by then
    script = f"exec 3<&0; cat {folder}/ready - <&3 & read line"
    with ExitStack() as stack:
        server = stack.enter_context(running(folder, "ollama", script))
        (runner,) = psutil.Process(server).children()
        stack.callback(runner.kill)
        table = refreshed()
        assert table.name(runner.pid) == "cat"
        assert table.is_ollama(runner.pid)
        psutil.Process(server).kill()
        psutil.wait_procs([psutil.Process(server)], timeout=5)
        table.refresh()
        assert table.ollama_pids().count(runner.pid) == 1


def test_a_late_exec_is_seen(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A script that starts the server in its own place is looked at again, some readings later."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ollama").symlink_to(SHELL)
    script = f"echo READY; read line; exec {folder}/ollama -c 'echo READY; read line'"
    with subprocess.Popen(
        [str(SHELL), "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        table = refreshed()
        table.refresh()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"READY\n"
        assert not table.is_ollama(process.pid)
        for _ in range(FULL_LOOK_EVERY):
            table.refresh()
        assert table.is_ollama(process.pid)
        process.kill()


def test_what_ended_is_forgotten(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pid that is given out again must not inherit a name."""
    with running(tmp_path_factory.mktemp("bin"), "ollama") as pid:
        table = refreshed()
    table.refresh()
    assert table.name(pid) == ""
    assert not table.is_ollama(pid)


def test_resident_bytes_of_processes() -> None:
    """The sum over processes; one that ended counts nothing; none at all is not 0."""
    this_process = psutil.Process()
    with subprocess.Popen(["true"]) as ended:
        pass
    total = resident_bytes((this_process.pid, ended.pid))
    assert isinstance(total, int)
    assert abs(total - this_process.memory_info().rss) < this_process.memory_info().rss / 2
    assert isinstance(resident_bytes(()), Unavailable)


class FixedGpus(GpuSensor):
    """A sensor whose driver always says the same."""

    def __init__(self, reading: tuple[Gpu, ...] | Unavailable) -> None:
        super().__init__()
        self.reading = reading

    def ask(self) -> None:
        """No process is started."""

    def read(self) -> tuple[Gpu, ...] | Unavailable:
        return self.reading


def test_reads_ram(tmp_path_factory: pytest.TempPathFactory) -> None:
    """RAM is that of the machine, and an Ollama that runs holds some of it."""
    with running(tmp_path_factory.mktemp("bin"), "ollama"):
        reading = MemorySensor(FixedGpus(NO_GPU), clock=lambda: 5.0).read()
    assert reading.taken_at == 5.0
    assert reading.gpus == NO_GPU
    assert isinstance(reading.ram, RamReading)
    assert reading.ram.total_bytes == psutil.virtual_memory().total
    assert 0 < reading.ram.available_bytes <= reading.ram.total_bytes
    assert isinstance(reading.ram.ollama_bytes, int)
    assert reading.ram.ollama_bytes > 0


def test_names_the_processes_on_a_gpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names and owners come from the machine; a pid of another container has none."""
    with running(tmp_path_factory.mktemp("bin"), "ollama") as pid:
        seen = GpuProcess(pid, "", 3, is_ollama=False)
        hidden = GpuProcess(2**31 - 1, "", 4, is_ollama=False)
        gpu = Gpu(0, "card", 8, 7, (seen, hidden))
        reading = MemorySensor(FixedGpus((gpu,))).read()
    named = replace(seen, name="ollama", is_ollama=True)
    assert reading.gpus == (replace(gpu, processes=(named, hidden)),)


def test_a_gpu_without_process_list_passes() -> None:
    """What the driver does not report stays unavailable."""
    gpu = Gpu(0, "card", 8, 7, Unavailable("the GPU does not report this"))
    assert MemorySensor(FixedGpus((gpu,))).read().gpus == (gpu,)


def test_with_ollama_on_another_machine_nothing_of_this_one_is_read() -> None:
    """Neither GPU nor main memory, and no worker is started for the driver; the reason says where Ollama is."""

    def start() -> LineProcess:
        raise AssertionError("the driver of this machine was asked")

    sensor = MemorySensor(GpuSensor(start), lambda: 7.0, is_here=False)
    assert sensor.read() == MemoryReading(ELSEWHERE, ELSEWHERE, 7.0)
    assert "another machine" in ELSEWHERE.reason
    sensor.close()
