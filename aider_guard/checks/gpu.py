"""Checks the GPUs: which are read and how full they are, what shares the main memory, and which could not be read."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.checks.runtime import process_of
from aider_guard.core.findings import Finding, info, warn
from aider_guard.core.messages import size
from aider_guard.core.ollama_versions import UNKNOWN_ERA, era_of
from aider_guard.core.readings import GPU_NOT_YET, NO_NVIDIA_GPU, Gpu, MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.facts import Facts

_SET_ASIDE = "Ollama 0.30 and later leave most GPUs inside processors alone: OLLAMA_IGPU_ENABLE=1"


def gpus(facts: Facts) -> Iterator[Finding]:
    """One row for each GPU of this machine, where Ollama runs on it; none where there is none."""
    reading = facts.memory
    if not isinstance(reading, MemoryReading) or not _is_local(facts):
        return
    unread = reading.unread
    if not isinstance(reading.gpus, Unavailable):
        for gpu in reading.gpus:
            yield info("gpu", _in_words(gpu), _shared(facts) if gpu.shares_main_memory else "")
    elif reading.shares_main_memory:
        yield info("gpu", reading.gpus.reason, _shared(facts))
    elif reading.gpus not in (*NO_NVIDIA_GPU, GPU_NOT_YET):
        unread = (reading.gpus, *unread)
    for why in unread:
        what = "a GPU of this machine is not read, and does not count for what fits"
        yield warn("gpu-unread", what, why.reason)


def _is_local(facts: Facts) -> bool:
    return isinstance(facts.server, ServerReport) and facts.server.is_local


def _in_words(gpu: Gpu) -> str:
    total = size(gpu.vram_total_bytes)
    if gpu.shares_main_memory:
        total += " of the main memory"
    if isinstance(gpu.vram_used_bytes, int):
        return f"{gpu.name}: {size(gpu.vram_used_bytes)} of {total} in use"
    return f"{gpu.name}: {total}; {gpu.vram_used_bytes.reason}"


def _shared(facts: Facts) -> str:
    """What it means that a GPU shares the main memory: its models take that, if Ollama uses it at all."""
    reading, report = facts.memory, facts.server
    what = "a model on it is in the main memory"
    assert isinstance(reading, MemoryReading)
    assert isinstance(report, ServerReport)
    names = (gpu.name for gpu in reading.gpus) if isinstance(reading.gpus, tuple) else ()
    is_apple = any(name.startswith("Apple") for name in names)
    era = era_of(report.version)
    process = process_of(facts)
    settings = process.settings if process is not None else None
    is_chosen = isinstance(settings, dict) and bool(settings.get("OLLAMA_IGPU_ENABLE"))
    if is_apple or is_chosen or era.engine != "C" or era is UNKNOWN_ERA:
        return what
    return f"{what}. {_SET_ASIDE}"
