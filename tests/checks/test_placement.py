"""From reports and readings to what core/fit.py computes with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checks.worlds import GIB, MODEL, NO, QWEN, installed, model, process, server

from aider_guard.core.fit import Card
from aider_guard.core.model_memory import RUNNER_BYTES, Runtime
from aider_guard.core.ollama_versions import era_of, release
from aider_guard.core.readings import (
    INTEGRATED_INTEL,
    NO_NVIDIA_GPU,
    Gpu,
    GpuProcess,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import ModelMissing, ServerReport
from aider_guard.launch.server_runtime import (
    MAIN_MEMORY,
    candidates_of,
    cards_of,
    make_placement,
    runtime_of,
)
from aider_guard.sidecar import nvml

NONE = Unavailable("no NVIDIA driver is installed")
RAM = RamReading(32 * GIB, 20 * GIB, 0)


def gpu(used: int, *processes: GpuProcess, total: int = 16) -> Gpu:
    return Gpu(0, "card", total * GIB, used * GIB, processes)


def memory(
    *gpus: Gpu, why: Unavailable = NONE, ram: RamReading | Unavailable = RAM
) -> MemoryReading:
    return MemoryReading(gpus or why, ram, 0.0)


def loaded(vram_bytes: int, size_bytes: int = 6 * GIB) -> ModelsReading:
    return ModelsReading((LoadedModel(MODEL, "", size_bytes, vram_bytes, 8192),), 0.0)


OLLAMA = GpuProcess(812, "ollama", 6 * GIB, is_ollama=True)
GAME = GpuProcess(4711, "game", 2 * GIB, is_ollama=False)
HIDDEN = GpuProcess(812, "ollama", Unavailable("not told"), is_ollama=True)

CARDS: list[tuple[ServerReport, MemoryReading | Unavailable, tuple[Card, ...]]] = [
    (server(), memory(gpu(0)), (Card("card", 16 * GIB, 16 * GIB),)),
    (server(), memory(gpu(8, OLLAMA, GAME)), (Card("card", 16 * GIB, 14 * GIB),)),
    (server(loaded=loaded(6 * GIB)), memory(gpu(8, HIDDEN)), (Card("card", 16 * GIB, 14 * GIB),)),
    (
        server(loaded=loaded(6 * GIB)),
        memory(gpu(8, GAME), gpu(1)),
        (Card("card", 16 * GIB, 14 * GIB), Card("card", 16 * GIB, 15 * GIB)),
    ),
    (server(loaded=loaded(20 * GIB)), memory(gpu(8)), (Card("card", 16 * GIB, 16 * GIB),)),
    (
        server(),
        memory(),
        (Card(MAIN_MEMORY, 32 * GIB, 20 * GIB - 32 * GIB // 10),),
    ),
    (
        server(loaded=loaded(0)),
        memory(ram=RamReading(32 * GIB, 20 * GIB, 6 * GIB)),
        (Card(MAIN_MEMORY, 32 * GIB, 21 * GIB - 32 * GIB // 10),),
    ),
    (server(), memory(ram=RamReading(32 * GIB, GIB, 0)), (Card(MAIN_MEMORY, 32 * GIB, 0),)),
]


APU = replace(gpu(2, total=16), shares_main_memory=True)
APPLE = replace(APU, vram_used_bytes=NO, processes=NO)
ARC = replace(gpu(0, GAME), vram_used_bytes=NO)
MAIN_CARD = Card(MAIN_MEMORY, 32 * GIB, 20 * GIB - 32 * GIB // 10)
LITTLE = RamReading(32 * GIB, 8 * GIB, 0)
ON = process(OLLAMA_IGPU_ENABLE="1")
OFF = process(OLLAMA_IGPU_ENABLE="0")

SHARED: list[tuple[ServerReport, MemoryReading, tuple[Card, ...]]] = [
    # What the GPU may use, or what the machine has left, whichever is less.
    (server(), memory(APU), (Card("card", 16 * GIB, 14 * GIB, shares_main_memory=True),)),
    (
        server(),
        memory(APU, ram=LITTLE),
        (Card("card", 16 * GIB, 8 * GIB - 32 * GIB // 10, shares_main_memory=True),),
    ),
    (server(), memory(APPLE), (Card("card", 16 * GIB, 16 * GIB, shares_main_memory=True),)),
    # What Ollama has loaded there is free again for what the session loads.
    (
        server(loaded=loaded(6 * GIB)),
        memory(replace(APU, vram_used_bytes=7 * GIB), ram=LITTLE),
        (Card("card", 16 * GIB, 14 * GIB - 32 * GIB // 10, shares_main_memory=True),),
    ),
    # A model that is loaded shows whether Ollama uses it; else its settings do.
    (server(loaded=loaded(0)), memory(APU), (MAIN_CARD,)),
    (server(process=OFF), memory(APU), (MAIN_CARD,)),
    (server(process=ON), memory(APU), (Card("card", 16 * GIB, 14 * GIB, shares_main_memory=True),)),
    (server(process=NO), memory(APU), (Card("card", 16 * GIB, 14 * GIB, shares_main_memory=True),)),
    (server(), memory(why=INTEGRATED_INTEL), (MAIN_CARD,)),
    (
        server(loaded=loaded(6 * GIB)),
        memory(why=INTEGRATED_INTEL, ram=LITTLE),
        (Card(MAIN_MEMORY, 32 * GIB, 14 * GIB - 32 * GIB // 10),),
    ),
    # Mesa lets a GPU of Intel use three quarters.
    (
        server(process=ON),
        memory(why=INTEGRATED_INTEL, ram=RamReading(32 * GIB, 30 * GIB, 0)),
        (Card(MAIN_MEMORY, 32 * GIB, 24 * GIB),),
    ),
    (
        server(),
        memory(why=INTEGRATED_INTEL, ram=RamReading(32 * GIB, 30 * GIB, 0)),
        (Card(MAIN_MEMORY, 32 * GIB, 30 * GIB - 32 * GIB // 10),),
    ),
    # A card whose use is not told: what is seen to be held by others is not free.
    (server(), memory(ARC), (Card("card", 16 * GIB, 14 * GIB),)),
    (server(loaded=loaded(6 * GIB)), memory(ARC), (Card("card", 16 * GIB, 14 * GIB),)),
]


@pytest.mark.parametrize(("report", "reading", "cards"), SHARED)
def test_a_gpu_that_shares_the_main_memory_has_what_both_have(
    report: ServerReport, reading: MemoryReading, cards: tuple[Card, ...]
) -> None:
    """An AMD or Intel GPU inside a processor, or Apple's: never more than is left of the main memory."""
    assert cards_of(report, reading) == cards


def test_tables_take_room_beside_a_gpu_that_shares_the_main_memory() -> None:
    """What no card holds is in the same memory there; what was learned on a GPU counts."""
    tables = replace(QWEN, main_memory_bytes=300)
    report = server(model(architecture=tables))
    found = {}
    for name, reading in (("card", memory(gpu(0))), ("shared", memory(APU)), ("none", memory())):
        placed = make_placement(report, reading, {MODEL: 5})
        assert not isinstance(placed, Unavailable)
        found[name] = placed[0][0].correction_bytes
    assert found == {"card": 5, "shared": 305, "none": 300 - RUNNER_BYTES}


@pytest.mark.parametrize(("report", "reading", "cards"), CARDS)
def test_what_others_hold_is_taken_off_and_ollamas_own_is_not(
    report: ServerReport, reading: MemoryReading | Unavailable, cards: tuple[Card, ...]
) -> None:
    """A card's free memory is what a session's models could have; without a GPU it is the main memory."""
    assert cards_of(report, reading) == cards


NOT_KNOWN: list[tuple[ServerReport, MemoryReading | Unavailable, str]] = [
    (server(is_local=False), memory(gpu(0)), "another machine"),
    (server(), NO, "no answer"),
    (server(), memory(why=Unavailable("the NVIDIA driver does not answer")), "does not answer"),
    (server(loaded=loaded(6 * GIB)), memory(), "a GPU that is not read here"),
    (server(), memory(ram=NO), "no answer"),
]


@pytest.mark.parametrize(("report", "reading", "reason"), NOT_KNOWN)
def test_memory_that_cannot_be_known_has_a_reason(
    report: ServerReport, reading: MemoryReading | Unavailable, reason: str
) -> None:
    """Another machine's, an unread GPU's: never taken to be none, and never the main memory."""
    cards = cards_of(report, reading)

    assert isinstance(cards, Unavailable)
    assert reason in cards.reason


def test_the_words_for_no_gpu_are_the_sensors() -> None:
    """They decide between a machine without a GPU and one whose GPU does not answer."""
    sentences = {*nvml._SENTENCES.values(), "the NVIDIA driver knows no GPU"}
    assert sentences >= {none.reason for none in NO_NVIDIA_GPU}


def test_each_model_is_a_candidate_once() -> None:
    """Tags of one file are one; what was learned of a model is added."""
    report = server(
        model(blob="sha256-1"),
        model("terse:8b", blob="sha256-1"),
        model("qwen3", resolved="qwen3:latest", blob="sha256-2", size_bytes=GIB),
    )
    candidates = candidates_of(report, {"qwen3:latest": 7})

    assert isinstance(candidates, tuple)
    assert [(model.name, model.weights_bytes, model.correction_bytes) for model in candidates] == [
        (MODEL, 5 * GIB, 0),
        ("qwen3:latest", GIB, 7),
    ]


INCOMPLETE: list[tuple[ServerReport, str]] = [
    (server(models={}), "no model"),
    (server(ModelMissing("x")), "x is not installed"),
    (server(models={MODEL: NO}), "no answer"),
    (server(model(size_bytes=NO)), "no answer"),
    (server(model(architecture=NO)), "no answer"),
    (server(model(remote_host="https://ollama.com")), "runs elsewhere"),
]


@pytest.mark.parametrize(("report", "reason"), INCOMPLETE)
def test_one_unknown_model_makes_the_set_unknown(report: ServerReport, reason: str) -> None:
    """A sum without one of its parts would be too small."""
    placed = make_placement(report, memory(gpu(0)))

    assert isinstance(placed, Unavailable)
    assert reason in placed.reason


def test_a_set_is_placed() -> None:
    """Candidates, cards and runtime together."""
    placed = make_placement(server(), memory(gpu(0)), {MODEL: 5})

    assert not isinstance(placed, Unavailable)
    candidates, cards, runtime = placed
    assert [model.correction_bytes for model in candidates] == [5]
    assert cards == (Card("card", 16 * GIB, 16 * GIB),)
    assert runtime == Runtime("C", "f16", 1, flash_attention=True)


def test_on_the_cpu_nothing_is_taken_for_cuda() -> None:
    """The runner's memory on a GPU is not counted, and what was learned there neither."""
    placed = make_placement(server(), memory(), {MODEL: 5})

    assert not isinstance(placed, Unavailable)
    assert [model.correction_bytes for model in placed[0]] == [-RUNNER_BYTES]


def test_what_is_unknown_of_the_server_is_the_reason() -> None:
    """Without a server there is nothing to place."""
    assert make_placement(NO, memory(gpu(0))) == NO


RUNTIMES: list[tuple[str, dict[str, str], Runtime]] = [
    ("0.31.0", {}, Runtime("C", "f16", 1, flash_attention=True)),
    ("0.30.0", {}, Runtime("C", "f16", 1, flash_attention=True, reserves_all_logits=True)),
    ("0.30.3", {}, Runtime("C", "f16", 1, flash_attention=True, reserves_all_logits=True)),
    ("0.30.4", {}, Runtime("C", "f16", 1, flash_attention=True)),
    ("0.31.0", {"OLLAMA_FLASH_ATTENTION": "0"}, Runtime("C", "f16", 1, flash_attention=False)),
    ("0.31.0", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, Runtime("C", "q8_0", 1, flash_attention=True)),
    ("0.9.3", {}, Runtime("A", "f16", 1, flash_attention=False)),
    ("0.9.3", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, Runtime("A", "f16", 1, flash_attention=False)),
    (
        "0.12.0",
        {"OLLAMA_KV_CACHE_TYPE": "q4_0", "OLLAMA_FLASH_ATTENTION": "true"},
        Runtime("B", "q4_0", 1, flash_attention=True),
    ),
    ("0.31.0", {"OLLAMA_NUM_PARALLEL": "4"}, Runtime("C", "f16", 4, flash_attention=True)),
    ("0.31.0", {"OLLAMA_NUM_PARALLEL": "0"}, Runtime("C", "f16", 1, flash_attention=True)),
    ("0.31.0", {"OLLAMA_NUM_PARALLEL": "-1"}, Runtime("C", "f16", 1, flash_attention=True)),
    ("0.31.0", {"OLLAMA_KV_CACHE_TYPE": "strange"}, Runtime("C", "f16", 1, flash_attention=True)),
]


@pytest.mark.parametrize(("version", "variables", "runtime"), RUNTIMES)
def test_how_a_server_runs_models(
    version: str, variables: dict[str, str], runtime: Runtime
) -> None:
    """The settings of its process, else the defaults of its version; nonsense counts as no setting."""
    assert runtime_of(server(version=version, process=process(**variables))) == runtime


@pytest.mark.parametrize(
    ("version", "on_cpu", "variables", "slots"),
    [
        ("0.9.3", True, {}, 2),
        ("0.6.6", True, {}, 4),
        ("0.9.3", False, {}, 1),
        ("0.10.0", True, {}, 1),
        ("0.9.3", True, {"OLLAMA_NUM_PARALLEL": "1"}, 1),
        ("", True, {}, 1),
    ],
)
def test_old_servers_make_room_for_several_requests_on_the_cpu(
    version: str, *, on_cpu: bool, variables: dict[str, str], slots: int
) -> None:
    """On a GPU they do only where it fits, so there one slot decides."""
    report = server(version=version, process=process(**variables))
    assert runtime_of(report, on_cpu=on_cpu).parallel == slots


def test_a_process_that_tells_nothing_has_defaults() -> None:
    """Neither an unknown process nor unreadable settings are an error."""
    unread = replace(process(), settings=NO)
    assert runtime_of(server(process=NO)) == runtime_of(server(process=unread)) == Runtime()


@pytest.mark.parametrize(
    ("version", "engine"),
    [
        ("0.1.30", "A"),
        ("0.11.10", "A"),
        ("0.11.11", "B"),
        ("0.24.9", "B"),
        ("0.30.0", "C"),
        ("0.33.0-rc2", "C"),
        ("1.0", "C"),
        ("0.0.0", "C"),
        ("", "C"),
        ("strange", "C"),
    ],
)
def test_the_engine_follows_from_the_version(version: str, engine: str) -> None:
    """A build without a number counts as the newest."""
    assert era_of(version).engine == engine


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.86.2", (0, 86, 2)),
        ("v0.9.3-rc1", (0, 9, 3)),
        ("0.86.3.dev1+g1", (0, 86, 3)),
        ("1", (1,)),
        ("", ()),
        ("x1", ()),
        ("9999999.1", ()),
    ],
)
def test_versions_are_compared_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    """The numbers at the beginning; none where it begins otherwise."""
    assert release(text) == numbers


def test_the_architecture_goes_along() -> None:
    """It is what the formulas need."""
    candidates = candidates_of(server(installed=(installed(),)), {})
    assert isinstance(candidates, tuple)
    assert candidates[0].architecture == QWEN
