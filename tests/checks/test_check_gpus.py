"""What doctor says about the GPUs of this machine, by maker, and about those that are not read."""

from __future__ import annotations

import pytest
from checks.worlds import GIB, NO, by_id, finding_of, process, server, world

from aider_guard.core.readings import (
    GPU_NOT_YET,
    INTEGRATED_INTEL,
    NO_NVIDIA_GPU,
    Gpu,
    MemoryReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import ServerReport

RAM = RamReading(32 * GIB, 20 * GIB, 0)
GONE = Unavailable("the AMD GPU at 0000:03:00.0 is gone")
NOT_TOLD = Unavailable("Linux tells only administrators how much of an Intel card is used")
RX = Gpu(0, "AMD Radeon RX 7900 XTX", 24 * GIB, 3 * GIB, ())
ARC = Gpu(0, "Intel Arc B580", 12 * GIB, NOT_TOLD, ())
APU = Gpu(0, "AMD Radeon 780M", 32 * GIB, 2 * GIB, (), shares_main_memory=True)
APPLE = Gpu(0, "Apple M2 Max", 24 * GIB, NOT_TOLD, NOT_TOLD, shares_main_memory=True)


def memory(gpus: tuple[Gpu, ...] | Unavailable, *unread: Unavailable) -> MemoryReading:
    return MemoryReading(gpus, RAM, 0.0, unread)


ENABLE = "OLLAMA_IGPU_ENABLE=1"
ROWS: list[tuple[MemoryReading, ServerReport, str, bool]] = [
    # What is read, of which server; the row, and whether it says that Ollama may leave the GPU alone.
    (memory((RX,)), server(), "AMD Radeon RX 7900 XTX: 3.0 GiB of 24.0 GiB in use", False),
    (memory((ARC,)), server(), f"Intel Arc B580: 12.0 GiB; {NOT_TOLD.reason}", False),
    (
        memory((APU,)),
        server(),
        "AMD Radeon 780M: 2.0 GiB of 32.0 GiB of the main memory in use",
        True,
    ),
    (
        memory((APU,)),
        server(process=process(OLLAMA_IGPU_ENABLE="1")),
        "AMD Radeon 780M: 2.0 GiB of 32.0 GiB of the main memory in use",
        False,
    ),
    (
        memory((APU,)),
        server(version="0.11.0"),
        "AMD Radeon 780M: 2.0 GiB of 32.0 GiB of the main memory in use",
        False,
    ),
    (
        memory((APPLE,)),
        server(),
        f"Apple M2 Max: 24.0 GiB of the main memory; {NOT_TOLD.reason}",
        False,
    ),
    (memory(INTEGRATED_INTEL), server(process=NO), INTEGRATED_INTEL.reason, True),
]


@pytest.mark.parametrize(("reading", "report", "words", "is_set_aside"), ROWS)
def test_a_gpu_has_a_row(
    reading: MemoryReading, report: ServerReport, words: str, is_set_aside: bool
) -> None:
    """Its name, its memory, and that a model on it is in the main memory where that is so."""
    row = finding_of(world(memory=reading, server=report), "gpu")
    assert (row.severity, row.what) == ("info", words)
    assert (ENABLE in row.evidence) is is_set_aside
    assert ("main memory" in row.evidence) is reading.shares_main_memory


def test_a_gpu_that_is_not_read_is_a_warning() -> None:
    """Beside the one that is."""
    facts = world(memory=memory((RX,), GONE))
    row = finding_of(facts, "gpu-unread")
    assert (row.severity, row.evidence) == ("warn", GONE.reason)
    assert len(by_id(facts, "gpu")) == 1
    alone = world(memory=memory(GONE))
    assert finding_of(alone, "gpu-unread").evidence == GONE.reason
    assert not by_id(alone, "gpu")


@pytest.mark.parametrize(
    "facts",
    [
        world(memory=memory(NO_NVIDIA_GPU[0])),
        world(memory=memory(GPU_NOT_YET)),
        world(memory=memory((RX,), GONE), server=server(is_local=False)),
        world(memory=memory((RX,), GONE), server=NO),
        world(memory=NO),
    ],
)
def test_without_a_gpu_that_matters_there_is_no_row(facts: object) -> None:
    """None here, or Ollama is on another machine, or not there."""
    assert not by_id(facts, "gpu")  # type: ignore[arg-type]  # facts of a world
    assert not by_id(facts, "gpu-unread")  # type: ignore[arg-type]  # facts of a world


def test_the_fit_says_which_memory_it_is() -> None:
    """A GPU that shares the main memory is no card with room of its own."""
    shared = finding_of(world(memory=memory((APU,))), "fit")
    assert shared.evidence.endswith("in main memory, which the GPU shares")
    assert "main memory" not in finding_of(world(memory=memory((RX,))), "fit").evidence
