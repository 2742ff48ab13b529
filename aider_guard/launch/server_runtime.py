"""From what Ollama and the system report to the question whether it fits: models, cards, and how Ollama runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aider_guard.core.fit import Candidate, Card, KvType, Runtime
from aider_guard.core.model_memory import RUNNER_BYTES
from aider_guard.core.model_names import canonical_name
from aider_guard.core.ollama_versions import Engine, era_of, release
from aider_guard.core.readings import (
    NO_NVIDIA_GPU,
    Gpu,
    GpuProcess,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerReport

MAIN_MEMORY = "main memory"
_TRUE = frozenset({"1", "t", "true"})  # strconv.ParseBool, as envconfig reads it

Placement = tuple[tuple[Candidate, ...], tuple[Card, ...], Runtime]


def placement(
    server: ServerReport | Unavailable,
    memory: MemoryReading | Unavailable,
    corrections: Mapping[str, int] | None = None,
) -> Placement | Unavailable:
    """What core/fit needs for the models that the server was asked about, or why it cannot be known.

    *corrections* are bytes by canonical name (launch/learned.py).
    """
    if isinstance(server, Unavailable):
        return server
    candidates = candidates_of(server, corrections or {})
    if isinstance(candidates, Unavailable):
        return candidates
    cards = cards_of(server, memory)
    if isinstance(cards, Unavailable):
        return cards
    on_cpu = any(card.name == MAIN_MEMORY for card in cards)
    if on_cpu:  # no runner takes memory for CUDA, and what was learned was learned on a GPU
        candidates = tuple(replace(one, correction_bytes=-RUNNER_BYTES) for one in candidates)
    return candidates, cards, runtime_of(server, on_cpu=on_cpu)


def candidates_of(
    server: ServerReport, corrections: Mapping[str, int]
) -> tuple[Candidate, ...] | Unavailable:
    """The models that were asked about and run on the server, each once; unknown when one of them is."""
    found: dict[str, Candidate] = {}
    for name, model in server.models.items():
        candidate = _candidate(name, model, corrections)
        if isinstance(candidate, Unavailable):
            return candidate
        found.setdefault(candidate.blob or canonical_name(candidate.name), candidate)
    return tuple(found.values()) or Unavailable("no model of Ollama's is used")


def _candidate(
    name: str, model: ModelFacts | ModelMissing | Unavailable, corrections: Mapping[str, int]
) -> Candidate | Unavailable:
    if isinstance(model, Unavailable):
        return model
    if isinstance(model, ModelMissing):
        return Unavailable(f"{name} is not installed")
    if model.remote_host:
        return Unavailable(f"{name} runs elsewhere")
    for part in (model.size_bytes, model.architecture):
        if isinstance(part, Unavailable):
            return part
    assert isinstance(model.size_bytes, int)
    assert not isinstance(model.architecture, Unavailable)
    more = corrections.get(canonical_name(model.resolved or name), 0)
    return Candidate(model.resolved or name, model.size_bytes, model.architecture, model.blob, more)


def cards_of(
    server: ServerReport, memory: MemoryReading | Unavailable
) -> tuple[Card, ...] | Unavailable:
    """The GPUs with what Ollama may use of each; the main memory where there is no GPU."""
    if not server.is_local:
        return Unavailable("Ollama is on another machine, whose memory cannot be read")
    if isinstance(memory, Unavailable):
        return memory
    loaded = server.loaded if isinstance(server.loaded, ModelsReading) else None
    if not isinstance(memory.gpus, Unavailable):
        return tuple(_card(gpu, loaded, len(memory.gpus)) for gpu in memory.gpus) or _NONE
    if loaded is not None and any(model.vram_bytes for model in loaded.models):
        return Unavailable(f"Ollama uses a GPU that is not read here ({memory.gpus.reason})")
    if memory.gpus not in NO_NVIDIA_GPU:
        return memory.gpus
    return (
        memory.ram if isinstance(memory.ram, Unavailable) else (_main_memory(memory.ram, server),)
    )


_NONE = Unavailable("no GPU was read")


def _card(gpu: Gpu, loaded: ModelsReading | None, cards: int) -> Card:
    """Ollama's own share counts as free: what it has loaded makes room for what a session needs."""
    own = [process for process in _processes(gpu) if process.is_ollama]
    held = sum(one.vram_used_bytes for one in own if isinstance(one.vram_used_bytes, int))
    if not held and loaded is not None and cards == 1:  # the driver does not tell (WSL, containers)
        held = sum(model.vram_bytes for model in loaded.models)
    free = gpu.vram_total_bytes - gpu.vram_used_bytes + held
    return Card(gpu.name, gpu.vram_total_bytes, min(max(free, 0), gpu.vram_total_bytes))


def _processes(gpu: Gpu) -> tuple[GpuProcess, ...]:
    return gpu.processes if isinstance(gpu.processes, tuple) else ()


def _main_memory(ram: RamReading, server: ServerReport) -> Card:
    """What is available, and what Ollama's processes hold beyond the weights: those are mapped files, which the
    system counts as available already. A tenth is left to everything else on the machine.
    """
    resident = ram.ollama_bytes if isinstance(ram.ollama_bytes, int) else 0
    loaded = server.loaded.models if isinstance(server.loaded, ModelsReading) else ()
    names = {canonical_name(model.name) for model in loaded}
    installed = server.installed if isinstance(server.installed, tuple) else ()
    weights = sum(one.size_bytes for one in installed if canonical_name(one.name) in names)
    held = max(0, resident - weights) if loaded else 0
    free = min(ram.available_bytes + held, ram.total_bytes) - ram.total_bytes // 10
    return Card(MAIN_MEMORY, ram.total_bytes, max(0, free))


def runtime_of(server: ServerReport, *, on_cpu: bool = False) -> Runtime:
    """How this server runs models: what its process was told, else the defaults of its version."""
    version = server.version if isinstance(server.version, str) else ""
    engine = era_of(version).engine
    process = server.process
    told = {} if isinstance(process, Unavailable) else process.settings
    if isinstance(told, Unavailable):
        told = {}
    flash_text = told.get("OLLAMA_FLASH_ATTENTION", "").strip()
    # 0.30 and later leave it to llama.cpp, which takes it wherever the GPU can; before, it was off for most models.
    flash = is_on(flash_text) if flash_text else engine == "C"
    return Runtime(
        engine=engine,
        kv_type=_kv_type(told.get("OLLAMA_KV_CACHE_TYPE", ""), engine, flash=flash),
        parallel=_parallel(told.get("OLLAMA_NUM_PARALLEL", ""), version, on_cpu=on_cpu),
        flash_attention=flash,
    )


def is_on(text: str) -> bool:
    """A switch among Ollama's variables, read as Ollama does: anything that is no truth value counts as on."""
    lowered = text.strip().lower()
    return lowered in _TRUE or lowered not in {"", "0", "f", "false"}


def _kv_type(text: str, engine: Engine, *, flash: bool) -> KvType:
    """Before 0.30 a quantised cache without flash attention falls back to f16 (llm/server.go)."""
    kind = text.strip().lower()
    if engine != "C" and not flash:
        return "f16"
    return "q8_0" if kind == "q8_0" else "q4_0" if kind == "q4_0" else "f16"


def _parallel(text: str, version: str, *, on_cpu: bool) -> int:
    """Slots that are there whatever the memory. Unset, versions before 0.10 make more of them: on a GPU only where
    they fit, on the CPU always (sched.go: defaultParallel).
    """
    text = text.strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if number or not (on_cpu and fills_memory(version)):
        return max(number, 1)
    return 2 if release(version) >= (0, 6, 8) else 4


def fills_memory(version: str | Unavailable) -> bool:
    """Whether a server of this version makes room for several requests by itself where there is memory for them."""
    numbers = () if isinstance(version, Unavailable) else release(version)
    return (0, 0, 0) < numbers < (0, 10)
