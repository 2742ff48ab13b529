"""The session's notices, word for word."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from core.histories_of_events import GIB, UNKNOWN
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core import messages
from aider_guard.core.actions import Handoff, Notice
from aider_guard.core.drop_advice import Advice
from aider_guard.core.findings import Finding
from aider_guard.core.readings import (
    ContextReading,
    ContextRow,
    Gpu,
    GpuProcess,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.state import Restart

MIB = 1 << 20
ROWS = (
    ContextRow("system", "", 462),
    ContextRow("history", "", 0),
    ContextRow("file", "a.py", 5_000),
    ContextRow("file", "b.py", 1_000),
    ContextRow("map", "", 707),
)
TABLE = ContextReading("m", ROWS, 7_169, 8_192, 0.0)
DROP = Advice("/drop a.py", ("a.py",), 5_000, 26.4)
NO_MODELS = Unavailable("Ollama was not read")


def restart(files: int = 2, *, known: bool = True, exchanges: int = 2, **more: object) -> Restart:
    handoff = Handoff(tuple(f"{n}.py" for n in range(files)), known=known)
    return Restart("20 turns", 0.0, handoff, exchanges=exchanges, **more)  # type: ignore[arg-type]  # fields by name


def model(name: str, size: float = 4, vram: float | None = None) -> LoadedModel:
    """Sizes in GiB."""
    return LoadedModel(
        name, "", int(size * GIB), int((size if vram is None else vram) * GIB), UNKNOWN
    )


def card(used: float, *processes: GpuProcess, name: str = "card") -> Gpu:
    return Gpu(0, name, 8 * GIB, int(used * GIB), processes)


def process(name: str, used: float | None = 1, *, pid: int = 7, ollama: bool = False) -> GpuProcess:
    return GpuProcess(pid, name, UNKNOWN if used is None else int(used * GIB), ollama)


def short(gpus: tuple[Gpu, ...] | Unavailable, *models: LoadedModel, main: str = "m") -> Notice:
    ram = RamReading(16 * GIB, GIB, UNKNOWN)
    return messages.memory_short(MemoryReading(gpus, ram, 0.0), ModelsReading(models, 0.0), main)


LINES: list[tuple[Notice, tuple[str, ...]]] = [
    (
        messages.context_filling(TABLE, 7_169, 8_192, DROP),
        (
            "context about 88 % full: 7,169 of 8,192 tokens (files 6,000, repository map 707, instructions 462)",
            "/drop a.py   (frees about 5,000 tokens, then 26 %)",
        ),
    ),
    (
        messages.context_filling(TABLE, 7_169, 8_192, None),
        (
            "context about 88 % full: 7,169 of 8,192 tokens (files 6,000, repository map 707, instructions 462)",
            "no file can be dropped; /clear forgets the conversation",
        ),
    ),
    (
        messages.context_filling(TABLE, 8_000, 8_192, None, is_measured=True),
        (
            "context 98 % full: 8,000 of 8,192 tokens (files 6,000, repository map 707, instructions 462)",
            "no file can be dropped; /clear forgets the conversation",
        ),
    ),
    (
        messages.spilled(model("m", 4, 3), GIB, 4096),
        (
            "m does not fit: 1.0 GiB of it (25 %) runs on the CPU, which is slow",
            "--num-ctx 4096 would fit; auto takes it from the next start on",
        ),
    ),
    (
        messages.spilled(model("m", 10, 1), 9 * GIB, 0),
        (
            "m does not fit: 9.0 GiB of it (90 %) runs on the CPU, which is slow",
            "no window of this model fits; a smaller one would",
        ),
    ),
    (
        messages.probing_off("no answer"),
        ("the context is no longer watched in this session: no answer",),
    ),
    (
        messages.files_dropped(("a.py",)),
        ("Aider could not read a.py, and took it out of the chat",),
    ),
    (
        messages.files_dropped(("a.py", "b c.py")),
        ("Aider could not read a.py and b c.py, and took them out of the chat",),
    ),
    (
        messages.cannot_restart("no list"),
        ("not restarting Aider by itself in this session: no list",),
    ),
    (
        messages.restarted(restart(), 4.26),
        (
            "Aider restarted in 4.3 s (20 turns): 2 files and the last 2 exchanges kept",
            "/undo no longer knows the commits before this line",
        ),
    ),
    (
        messages.restarted(restart(1, exchanges=1, freed_bytes=3 * GIB, unloaded=("m",)), 4.0),
        (
            "Aider restarted in 4.0 s (20 turns): 1 file and the last exchange kept, 3.0 GiB freed",
            "/undo no longer knows the commits before this line",
        ),
    ),
    (
        messages.restarted(restart(0, exchanges=0, unloaded=("m", "w")), 4.0),
        (
            "Aider restarted in 4.0 s (20 turns): 0 files kept, m and w unloaded",
            "/undo no longer knows the commits before this line",
        ),
    ),
    (
        messages.restarted(restart(0, known=False, exchanges=0, freed_bytes=GIB), 4.0),
        (
            "Aider restarted in 4.0 s (20 turns): the files of the command line kept",
            "/undo no longer knows the commits before this line",
        ),
    ),
    (
        messages.offer(1, Handoff(("a",)), talked=True),
        (
            "Aider ended by itself with status 1.",
            "Start it again with 1 file and the last exchanges?",
        ),
    ),
    (
        messages.offer(-11, Handoff(("a",), ("b",)), talked=False),
        ("Aider was killed by SIGSEGV.", "Start it again with 2 files?"),
    ),
    (
        messages.offer(-40, Handoff(known=False), talked=False),
        ("Aider was killed by signal 40.", "Start it again with the files of the command line?"),
    ),
    (
        messages.offer(0, Handoff(("a",)), talked=False),
        ("Aider ended by itself with status 0.", "Start it again with 1 file?"),
    ),
    (
        messages.gave_up(-9, 3),
        ("Aider was killed by SIGKILL; it was started 3 times. Nothing of yours is lost.",),
    ),
    (
        messages.sidecar_lost("it died"),
        ("memory and models are not watched at the moment (it died); Aider goes on",),
    ),
    (
        short((card(7.6),), model("m")),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by m 4.0 GiB; a smaller --num-ctx or model needs less",
        ),
    ),
    (
        short((card(4), card(7.6, name="second")), model("m", 4, 3)),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (second)",
            "held by m 4.0 GiB, 25 % of it on the CPU; a smaller --num-ctx or model needs less",
        ),
    ),
    (
        short((card(7.6, process("ollama", 5, ollama=True), process("blender", 2)),), model("m")),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by m 4.0 GiB, blender (7); close blender, or use a smaller --num-ctx",
        ),
    ),
    (
        short((card(7.6, process("small", 0.1), process("big", 3, pid=9), process("x", None)),)),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by big (9), small (7); close big, or use a smaller --num-ctx",
        ),
    ),
    (
        short((card(7.6, process("blender", 2)),), model("m"), model("old:7b", 3)),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by m 4.0 GiB, old:7b 3.0 GiB, blender (7); ollama stop old:7b",
        ),
    ),
    (
        short((card(7.6, process("", 2)),)),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by a hidden process (7); close a hidden process, or use a smaller --num-ctx",
        ),
    ),
    (
        short((card(7.6),)),
        (
            "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)",
            "held by unknown holder; a smaller --num-ctx or model needs less",
        ),
    ),
    (
        short(UNKNOWN, model("m", 4, 0)),
        (
            "main memory nearly full: 15.0 GiB of 16.0 GiB in use",
            "m 4.0 GiB, 100 % of it on the CPU; a smaller --num-ctx or model needs less",
        ),
    ),
    (
        messages.memory_short(MemoryReading(UNKNOWN, UNKNOWN, 0.0), NO_MODELS, "m"),
        (
            "main memory nearly full: nearly all in use",
            "no model is loaded; a smaller --num-ctx or model needs less",
        ),
    ),
]


@pytest.mark.parametrize(("notice", "lines"), LINES, ids=lambda part: getattr(part, "name", ""))
def test_the_words(notice: Notice, lines: tuple[str, ...]) -> None:
    """Each notice has exactly these words, with singular and plural, and claims nothing unknown."""
    assert notice.lines == lines


@pytest.mark.parametrize("notice", [notice for notice, _ in LINES], ids=lambda notice: notice.name)
def test_a_notice_is_one_or_two_plain_lines(notice: Notice) -> None:
    """No control characters, no line breaks, no blanks around; a command to copy begins its line."""
    assert notice.name.isidentifier()
    assert 1 <= len(notice.lines) <= 2
    for line in notice.lines:
        assert line.isprintable()
        assert line == line.strip()
        assert "/drop" not in line or line.startswith("/drop ")


SIZES = [
    (0, "0 MiB"),
    (MIB, "1 MiB"),
    (424 * MIB, "424 MiB"),
    (1023 * MIB, "1023 MiB"),
    (GIB, "1.0 GiB"),
    (int(7.64 * GIB), "7.6 GiB"),
    (-300 * MIB, "-300 MiB"),
    (-2 * GIB, "-2.0 GiB"),
]


@pytest.mark.parametrize(("count_bytes", "text"), SIZES)
def test_sizes_read_well(count_bytes: int, text: str) -> None:
    """GiB with one decimal from one GiB on, below that whole MiB."""
    assert messages.size(count_bytes) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_one_is_singular(number: int, text: str) -> None:
    """One file, and any other number of files."""
    assert messages.count(number, "file") == text


NUMBERS = st.integers(0, 1 << 40)
MODELS = st.builds(
    LoadedModel, st.text(max_size=5), st.just(""), NUMBERS, NUMBERS, st.just(UNKNOWN)
)
PROCESSES = st.builds(
    GpuProcess, NUMBERS, st.text(max_size=5), NUMBERS | st.just(UNKNOWN), st.booleans()
)
LISTS = st.lists(PROCESSES, max_size=3).map(tuple) | st.just(UNKNOWN)
GPUS = st.lists(st.builds(Gpu, NUMBERS, st.text(max_size=5), NUMBERS, NUMBERS, LISTS), max_size=3)
RAM = st.builds(RamReading, NUMBERS, NUMBERS, st.just(UNKNOWN)) | st.just(UNKNOWN)


@given(GPUS.map(tuple) | st.just(UNKNOWN), RAM, st.lists(MODELS, max_size=3).map(tuple))
def test_any_reading_of_memory_can_be_said(
    gpus: tuple[Gpu, ...] | Unavailable,
    ram: RamReading | Unavailable,
    models: tuple[LoadedModel, ...],
) -> None:
    """Cards and models of no size, no processes, no names: there is always a notice of two lines."""
    reading = MemoryReading(gpus, ram, 0.0)
    notice = messages.memory_short(reading, ModelsReading(models, 0.0), "m")
    assert len(notice.lines) == 2


SAYS: list[Callable[[str], Notice]] = [
    messages.probing_off,
    messages.cannot_restart,
    messages.sidecar_lost,
]


@pytest.mark.parametrize("say", SAYS)
def test_a_reason_is_passed_on(say: Callable[[str], Notice]) -> None:
    """Why something does not work is in the notice about it."""
    assert "because of this" in say("because of this").lines[0]


def test_the_share_on_the_cpu_is_of_the_whole_model() -> None:
    """In per cent, rounded; a model of no size has none."""
    for gib, words in ((1, "90 % of it on the CPU"), (9.96, "0 % of it"), (10, "m 10.0 GiB;")):
        assert words in short((card(7.6),), model("m", 10, gib)).lines[1]
    assert "CPU" not in short((card(7.6),), model("m", 0, 0)).lines[1]


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "ABRT", "KILL", "SEGV", "TERM"])
def test_signals_have_their_names(name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    assert messages.ended(-number) == f"was killed by SIG{name}"


def test_a_refusal_shows_what_was_seen_and_the_fix() -> None:
    """Each where there is one, below what it is about; the way out only for what leaks."""
    first = Finding("a", "stop", "one", evidence="e1", fix="f1")
    second = Finding("b", "stop", "two")
    third = Finding("c", "stop", "three", fix="f3")
    shown = ("Aider was not started: one", "  seen: e1", "  fix: f1", "two", "three", "  fix: f3")
    assert messages.refused((first, second, third), leaks=False).lines == shown
    way_out = "aider-guard --network open starts it all the same"
    assert messages.refused((first, second, third), leaks=True).lines == (*shown, way_out)


def test_two_programs_at_most_hold_the_memory() -> None:
    """The largest; one whose share is hidden counts for nothing."""
    many = [process(name, size) for name, size in (("c", 1), ("b", 2), ("a", 3))]
    assert short((card(7.6, *many),)).lines[1].startswith("held by a (7), b (7); close a")
    unknown = [process("hidden", None), process("none", 0), process("known", 0.1)]
    assert short((card(7.6, *unknown),)).lines[1].startswith("held by known (7), hidden (7);")


def test_two_models_at_most_hold_the_memory() -> None:
    """In Ollama's order; the rest would make the line too long."""
    held = short((card(7.6),), model("m"), model("n", 2), model("o", 1)).lines[1]
    assert held == "held by m 4.0 GiB, n 2.0 GiB; ollama stop n"


def test_the_fullest_card_is_shown() -> None:
    """By its share: a small card may be full while a large one with more in use is not."""
    large = Gpu(1, "large", 80 * GIB, 40 * GIB, ())
    for cards in ((card(7.6), large), (large, card(7.6))):
        assert short(cards).lines[0] == "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)"
    assert short((Gpu(0, "none", 0, GIB, ()), large)).lines[0].endswith("(large)")


def test_a_share_of_nothing_is_none() -> None:
    """A card or a model whose size is told as 0 is no reason to fail, and not full."""
    assert short((Gpu(0, "none", 0, 0, ()),)).lines[0].startswith("GPU memory 0 % full: 0 MiB of")
    assert "0 MiB of it (0 %) runs" in messages.spilled(model("m", 0, 0), 0, 0).lines[0]


def test_a_warning_has_its_fix_below_it() -> None:
    """And is one line where there is none."""
    assert messages.finding_notice(Finding("a", "warn", "what", fix="fix")).lines == ("what", "fix")
    assert messages.finding_notice(Finding("a", "warn", "what")).lines == ("what",)
