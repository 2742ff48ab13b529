"""Turns what Ollama and the system report into core/fit's input: models, cards, and how Ollama runs models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aider_guard.core.fit import Card
from aider_guard.core.model_memory import RUNNER_BYTES, Candidate, KvType, Runtime
from aider_guard.core.model_names import canonical_name
from aider_guard.core.ollama_versions import era_of, release, reserves_all_logits
from aider_guard.core.readings import (
    NO_NVIDIA_GPU,
    Gpu,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
    held_bytes,
)
from aider_guard.core.server_report import ModelMissing, ServerReport
from aider_guard.paths import replace_file

MAIN_MEMORY = "main memory"

Placement = tuple[tuple[Candidate, ...], tuple[Card, ...], Runtime]


def make_placement(
    server: ServerReport | Unavailable,
    memory: MemoryReading | Unavailable,
    corrections: Mapping[str, int] | None = None,
) -> Placement | Unavailable:
    """Put together what core/fit needs for the models that the server was asked about, or say why that is not known.

    *corrections* are bytes by canonical name, as ``read_corrections`` returns them.
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
    if on_cpu or any(card.shares_main_memory for card in cards):
        # Tables that no card holds take room there, too. On the CPU no runner takes memory for CUDA, and what was
        # learned was learned on a GPU.
        candidates = tuple(
            replace(
                each,
                correction_bytes=each.architecture.main_memory_bytes
                + (-RUNNER_BYTES if on_cpu else each.correction_bytes),
            )
            for each in candidates
        )
    return candidates, cards, runtime_of(server, on_cpu=on_cpu)


def candidates_of(
    server: ServerReport, corrections: Mapping[str, int]
) -> tuple[Candidate, ...] | Unavailable:
    """The models that the server was asked about, each once; unavailable as soon as one of them is."""
    candidates: dict[str, Candidate] = {}
    for name, model in server.models.items():
        if isinstance(model, Unavailable):
            return model
        if isinstance(model, ModelMissing):
            return Unavailable(f"{name} is not installed")
        if model.remote_host:
            return Unavailable(f"{name} runs elsewhere")
        size, architecture = model.size_bytes, model.architecture
        if isinstance(size, Unavailable):
            return size
        if isinstance(architecture, Unavailable):
            return architecture
        resolved = model.resolved or name
        more = corrections.get(canonical_name(resolved), 0)
        candidate = Candidate(resolved, size, architecture, model.blob, more)
        candidates.setdefault(model.blob or canonical_name(resolved), candidate)
    return tuple(candidates.values()) or Unavailable("no model of Ollama's is used")


def cards_of(
    server: ServerReport, memory: MemoryReading | Unavailable
) -> tuple[Card, ...] | Unavailable:
    """The GPUs with what Ollama may use of each; the main memory where there is no GPU that Ollama uses."""
    if not server.is_local:
        return Unavailable("Ollama is on another machine, whose memory cannot be read")
    if isinstance(memory, Unavailable):
        return memory
    loaded = server.loaded if isinstance(server.loaded, ModelsReading) else None
    if not memory.shares_main_memory:
        if not isinstance(memory.gpus, Unavailable):
            return _cards(memory.gpus, loaded) or Unavailable("no GPU was read")
        if loaded is not None and any(model.vram_bytes for model in loaded.models):
            return Unavailable(f"Ollama uses a GPU that is not read here ({memory.gpus.reason})")
        if memory.gpus not in NO_NVIDIA_GPU:
            return memory.gpus
    if isinstance(memory.ram, Unavailable):
        return memory.ram
    main = _main_memory(memory.ram, server)
    is_used = _uses_shared(server, loaded)
    if isinstance(memory.gpus, Unavailable):
        most = main.total_bytes * 3 // 4 if is_used else main.free_bytes
        return (replace(main, free_bytes=min(main.free_bytes, most)),)
    if is_used is False:
        return (main,)
    return tuple(
        replace(card, free_bytes=min(card.free_bytes, main.free_bytes), shares_main_memory=True)
        for card in _cards(memory.gpus, loaded)
    )


def _uses_shared(server: ServerReport, loaded: ModelsReading | None) -> bool | None:
    """Whether Ollama runs models on a GPU that shares the main memory: by what is loaded, else by its settings.

    None where that is open: from 0.30 on it leaves most such GPUs aside unless ``OLLAMA_IGPU_ENABLE`` is set
    (discover/runner.go, ``filterIntegratedGPUs``), but for Apple's and those of one AMD processor. The smaller memory
    is taken then. Mesa lets a GPU of Intel use three quarters of the main memory (``anv_compute_sys_heap_size``).
    """
    if loaded is not None and loaded.models:
        return any(model.vram_bytes for model in loaded.models)
    process = server.process
    settings = {} if isinstance(process, Unavailable) else process.settings
    wanted = "" if isinstance(settings, Unavailable) else settings.get("OLLAMA_IGPU_ENABLE", "")
    return is_on(wanted) if wanted else None


def _cards(gpus: Sequence[Gpu], loaded: ModelsReading | None) -> tuple[Card, ...]:
    """Describe GPUs. Ollama's own share counts as free: what it has loaded makes room for what a session needs."""
    ours = [held_bytes(gpu.processes, by_ollama=True) for gpu in gpus]
    if not any(ours) and loaded is not None:
        ours = _hidden_shares(gpus, sum(model.vram_bytes for model in loaded.models))
    cards = []
    for gpu, own in zip(gpus, ours, strict=True):
        total, used = gpu.vram_total_bytes, gpu.vram_used_bytes
        others = held_bytes(gpu.processes, by_ollama=False)
        taken = used - own if isinstance(used, int) else others
        cards.append(Card(gpu.name, total, min(max(total - taken, 0), total)))
    return tuple(cards)


def _hidden_shares(gpus: Sequence[Gpu], left_bytes: int) -> list[int]:
    """Return what Ollama holds of each GPU where its processes are not shown (WSL, a container, another user's).

    It is in what is used and held by no process that is shown; where that is most, it is Ollama's first.
    """
    hidden = [max(0, gpu.least_used_bytes - held_bytes(gpu.processes)) for gpu in gpus]
    shares = [0] * len(gpus)
    for at in sorted(range(len(gpus)), key=lambda at: -hidden[at]):
        shares[at] = min(hidden[at], left_bytes)
        left_bytes -= shares[at]
    return shares


def _main_memory(ram: RamReading, server: ServerReport) -> Card:
    """Describe the main memory as a card. Free is what the system calls available, and what Ollama's processes hold
    beyond the weights: those are mapped files, which the system counts as available already. A tenth is left to
    everything else on the machine. What a GPU uses of it is no mapped file, and is free once it is unloaded.
    """
    resident = ram.ollama_bytes if isinstance(ram.ollama_bytes, int) else 0
    loaded = server.loaded.models if isinstance(server.loaded, ModelsReading) else ()
    names = {canonical_name(model.name) for model in loaded}
    installed = server.installed if isinstance(server.installed, tuple) else ()
    weights = sum(model.size_bytes for model in installed if canonical_name(model.name) in names)
    ollama_bytes = max(0, resident - weights) if loaded else 0
    ollama_bytes = max(ollama_bytes, sum(model.vram_bytes for model in loaded))
    free = min(ram.available_bytes + ollama_bytes, ram.total_bytes) - ram.total_bytes // 10
    return Card(MAIN_MEMORY, ram.total_bytes, max(0, free))


def runtime_of(server: ServerReport, *, on_cpu: bool = False) -> Runtime:
    """How this server runs models: by the environment of its process, else by the defaults of its version."""
    version = server.version if isinstance(server.version, str) else ""
    engine = era_of(version).engine
    process = server.process
    settings = {} if isinstance(process, Unavailable) else process.settings
    if isinstance(settings, Unavailable):
        settings = {}
    flash_text = settings.get("OLLAMA_FLASH_ATTENTION", "").strip()
    # 0.30 and later leave it to llama.cpp, which takes it wherever the GPU can; before, it was off for most models.
    flash = is_on(flash_text) if flash_text else engine == "C"
    kv_text = settings.get("OLLAMA_KV_CACHE_TYPE", "").strip().lower()
    kv_type: KvType = "q8_0" if kv_text == "q8_0" else "q4_0" if kv_text == "q4_0" else "f16"
    if engine != "C" and not flash:  # then a quantised cache falls back to f16 (llm/server.go)
        kv_type = "f16"
    text = settings.get("OLLAMA_NUM_PARALLEL", "").strip()
    parallel = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    # Unset, versions before 0.10 make more slots: on a GPU only where they fit, on the CPU always (sched.go:
    # defaultParallel).
    if not parallel and on_cpu and fills_memory(version):
        parallel = 2 if release(version) >= (0, 6, 8) else 4
    return Runtime(
        engine,
        kv_type,
        max(parallel, 1),
        flash,
        reserves_all_logits=reserves_all_logits(version),
    )


def is_on(text: str) -> bool:
    """Whether one of Ollama's variables switches something on. As in Ollama's envconfig, text that strconv.ParseBool
    cannot read does.
    """
    return text.strip().lower() not in {"", "0", "f", "false"}


def fills_memory(version: str | Unavailable) -> bool:
    """Whether a server of this version makes room for several requests by default where there is memory for them."""
    numbers = () if isinstance(version, Unavailable) else release(version)
    return (0, 0, 0) < numbers < (0, 10)


# How much more memory models needed than was computed, kept between sessions. Losing the file costs little.

CORRECTIONS_FILE = "needs.json"
_MAX_BYTES = 1 << 40


def read_corrections(folder: Path) -> Mapping[str, int]:
    """Read the differences in bytes by canonical name; empty when there are none or they cannot be read."""
    try:
        corrections = json.loads((folder / CORRECTIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(corrections, dict):
        return {}
    return {
        name: error
        for name, error in corrections.items()
        if type(error) is int and abs(error) < _MAX_BYTES
    }


def remember(folder: Path, name: str, error_bytes: int) -> None:
    """Write one model's difference. Raises OSError when it cannot be written; the file is then as it was."""
    corrections = {**read_corrections(folder), canonical_name(name): error_bytes}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two sessions may write at once: each writes a draft of its own, and the last one wins as a whole.
    text = json.dumps(corrections, indent=1, sort_keys=True)
    replace_file(folder / CORRECTIONS_FILE, text.encode("ascii"))
