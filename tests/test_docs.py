"""The documentation says what the program does."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from aider_guard import cli, config, errors
from aider_guard.core import egress_messages, messages
from aider_guard.core.actions import (
    Action,
    Announce,
    CancelDeadline,
    Handoff,
    Notice,
    SetDeadline,
)
from aider_guard.core.chat import overflow, pace, request
from aider_guard.core.chat.events import ReadingEstimated
from aider_guard.core.chat.overflow import Overflow
from aider_guard.core.chat.request import PREFIX
from aider_guard.core.chat.types import Count
from aider_guard.core.drop_advice import Advice
from aider_guard.core.events import (
    AiderExited,
    AiderRetired,
    AiderStarted,
    AirGapChosen,
    ChatSaved,
    CommandNotTyped,
    DeadlinePassed,
    EgressAllowed,
    EgressBlocked,
    Event,
    LaunchForbidden,
    ModelsUnloaded,
    NoticeShown,
    OfferAnswered,
    PromptSettled,
    PromptShown,
    RestartRequested,
    SidecarLost,
    TerminationRequested,
    TurnFinished,
)
from aider_guard.core.findings import Finding
from aider_guard.core.policy import decide
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
from aider_guard.core.state import Ledger, Limits, Phase, Restart, State
from aider_guard.journal import FileJournal
from aider_guard.session import console, control, notices, resuming
from aider_guard.session.kept_sessions import KeptSession
from aider_guard.session.resuming import FoundFiles

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("examples/*.md")])
GIB = 1 << 30


def read(name: str) -> str:
    """A text of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def table(name: str, heading: str) -> list[list[str]]:
    """The cells, row by row, of the table in a text whose first column has this heading."""
    _, _, below = read(name).partition(f"\n| {heading} |")
    rows = below.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" |")] for row in rows]


def code(cell: str) -> str:
    """The first thing in a cell that is marked as code, else the cell."""
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else cell


def blocks(name: str) -> list[str]:
    """The code blocks of a text."""
    return re.findall(r"^```\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE)


# Settings


def test_every_setting_is_documented_with_its_true_default() -> None:
    """docs/settings.md has each setting once, with its variable and the default of the code."""
    rows = {code(row[0]): row for row in table("docs/settings.md", "setting")}
    defaults = dataclasses.asdict(config.Config())

    assert set(rows) == set(config.SETTINGS)
    for name, (_, variable, default, _) in rows.items():
        assert code(variable) == config.ENVIRONMENT_PREFIX + name.upper().replace("-", "_")
        shown = {"": "where Aider looks", None: "auto", (): "none"}
        value = defaults[name.replace("-", "_")]
        text = str(value).lower() if isinstance(value, bool) else str(value)
        assert code(default) == shown.get(value, text), name


def test_what_a_setting_takes_is_what_its_check_says() -> None:
    """The last column is the sentence with which a wrong value is refused."""
    for cell, _, _, takes in table("docs/settings.md", "setting"):
        with pytest.raises(ValueError, match=f"^{re.escape(takes)}$"):
            config.check(code(cell), "" if takes == "a text" else "a 'wrong value")


def test_every_setting_has_its_own_section_and_flag() -> None:
    """docs/settings.md explains each setting, and a flag of the same name sets it."""
    flags = {option for parameter in cli.main.params for option in parameter.opts}

    for name in config.SETTINGS:
        assert f"\n## `{name}`\n" in read("docs/settings.md")
        assert f"--{name}" in flags


def test_the_readme_has_every_setting_with_its_default() -> None:
    """The short table says the same as the long one."""
    long = {code(row[0]): row[2] for row in table("docs/settings.md", "setting")}
    short = {code(row[0]).removeprefix("--"): row[1] for row in table("README.md", "setting")}

    assert short == long


def test_the_error_for_a_wrong_value_is_printed_as_shown() -> None:
    """The example of a refused value is what the program says and how it ends."""
    done = aider_guard("--warn-at", "200")

    assert done.stderr in blocks("docs/settings.md")
    assert done.returncode == errors.ConfigError.exit_code


# Commands


def aider_guard(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, run as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "aider_guard", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("name", ["README.md", "docs/usage.md"])
def test_every_command_is_listed(name: str) -> None:
    """The tables of commands name all that there are, and no other."""
    rows = [code(row[0]).split() for row in table(name, "command")]
    commands = {row[1] for row in rows if row[1] != "--"}

    assert commands == {name for name, command in cli.main.commands.items() if not command.hidden}


def test_every_exit_status_of_the_guards_own_is_listed() -> None:
    """The table of exit statuses is that of the errors."""
    kinds: list[type[errors.GuardError]] = [errors.GuardError]
    kinds += errors.GuardError.__subclasses__()
    rows = table("docs/usage.md", "status")

    assert {int(row[0]) for row in rows} == {kind.exit_code for kind in kinds}


def test_the_targets_of_make_are_there() -> None:
    """Every ``make`` command in the texts is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9]+):", read("Makefile"), re.MULTILINE))
    named = {
        word
        for path in TEXTS
        for word in re.findall(r"(?:`|^)make ([a-z0-9]+)", path.read_text(), re.MULTILINE)
    }

    assert named
    assert named <= targets


# Notices


def reading() -> ContextReading:
    """The token table of the sample repository with its large file."""
    rows = (
        ContextRow("system", "", 462),
        ContextRow("map", "", 69),
        ContextRow("file", "till/catalogue.py", 6058),
        ContextRow("file", "till/prices.py", 280),
    )
    return ContextReading("m", rows, 6869, 8192, 0.0)


def examples() -> Iterator[Notice]:
    """The notices that the texts show."""
    advice = Advice("/drop till/catalogue.py", ("till/catalogue.py",), 6058, 100 * 811 / 8192)
    yield messages.context_filling(reading(), 6869, 8192, advice)
    blender = GpuProcess(4711, "blender", GIB, is_ollama=False)
    card = Gpu(0, "NVIDIA GeForce RTX 4080", 16 * GIB, int(14.9 * GIB), (blender,))
    model = LoadedModel("qwen3:14b", "", int(12.5 * GIB), int(12.5 * 0.82 * GIB), 8192)
    memory = MemoryReading((card,), Unavailable("not read"), 0.0)
    yield messages.memory_short(memory, ModelsReading((model,), 0.0), "qwen3:14b")
    spilled = LoadedModel("qwen3:14b", "", int(12.6 * GIB), int(10.3 * GIB), 16384)
    yield messages.spilled(spilled, int(2.3 * GIB), 9216)
    silent = "Ollama does not answer at http://127.0.0.1:11434 as it should"
    yield messages.finding_notice(Finding("ollama-unread", "warn", silent, fix="ollama serve"))
    yield from attempts_to_leave()
    three = Handoff(("a", "b", "c"))
    freed = Restart("20 turns", 0.0, three, freed_bytes=424 << 20, unloaded=("m",), exchanges=4)
    yield messages.restarted(freed, 4.2)
    yield messages.no_restarts()
    yield messages.offer(-9, three, talked=True)
    yield refused()


MODELS = EgressBlocked("api.openai.com", 443, "tcp", count=5)
ANALYTICS = EgressBlocked("us.i.posthog.com", 443, "tcp", "aider", 12)
DATABASE = EgressBlocked("127.0.0.1", 5432, "tcp", "psql")
DOCKER = EgressBlocked("/run/docker.sock", 0, "unix", "docker")
RAW = EgressBlocked("192.0.2.10", 9999, "udp", "nc")
THROUGH = EgressAllowed("github.com", 22, 3)


def attempts_to_leave() -> Iterator[Notice]:
    """The notices of the air gap: a cloud and a call home, a database, and the last line."""
    for events in ((MODELS, ANALYTICS), (DATABASE,)):
        yield first_notice(*events)
    yield last_line(MODELS, ANALYTICS, THROUGH)


def first_notice(*events: Event) -> Notice:
    """The notice of attempts to destinations that are new."""
    ledger = gone_through(*events).egress
    return egress_messages.attempts(ledger, ledger.news())


def gone_through(*events: Event) -> State:
    """A session in a network namespace after these."""
    state = State()
    for event in (AirGapChosen("netns"), *events):
        state, _ = decide(state, event, 0.0)
    return state


def last_line(*events: Event) -> Notice:
    """The last line of such a session."""
    notice = egress_messages.end_line(gone_through(*events))
    assert notice is not None
    return notice


def wide(notice: Notice) -> str:
    """A notice as it is printed in a wide terminal."""
    return notices.render(notice, 200, colour=False, newline="\n")


def refused() -> Notice:
    """A launch that would send code to a cloud."""
    return messages.refused(
        [
            Finding(
                "model-from-env",
                "stop",
                "the weak model, gpt-4o-mini, would run in a cloud",
                "AIDER_WEAK_MODEL in /home/ada/till/.env",
                "aider-guard -- --weak-model ollama_chat/qwen3:8b",
            )
        ],
        leaks=True,
    )


def resumed() -> Notice:
    """A session that was opened again, with a file that was renamed."""
    saved_at = datetime(2026, 3, 1, 10, 15).astimezone().timestamp()
    kept = KeptSession("id", "/home/ada/till", saved_at, handoff=Handoff())
    moved = (("till/price.py", "till/prices.py"),)
    return Notice("resumed", resuming.notice_lines(kept, FoundFiles(("a", "b"), (), moved), 4))


def door_answer() -> str:
    """What the door says in the model's place when a prompt does not fit."""
    rows = (ContextRow("system", "", 117), ContextRow("file", "big.py", 5253))
    counted = Overflow(Count(5370, exact=True), window_tokens=3072, reserve_tokens=384)
    first, second = overflow.lines(counted, rows, ())
    return f"{request.PREFIX}{first}\n{second}\n"


def test_the_notices_in_the_texts_are_in_the_programs_words() -> None:
    """Each notice that is shown as an example is what the program prints in a wide terminal."""
    printed = [wide(notice) for notice in examples()]
    printed[-2] += console.QUESTION.decode().rstrip() + "\n"
    printed.insert(-1, door_answer())
    printed.append(wide(resumed()))
    shown = [block for block in blocks("docs/usage.md") if block.startswith(PREFIX)]

    assert shown == printed
    started = State(Limits(), egress=Ledger("netns"), main_model="qwen3:8b", pinned_tokens=8_192)
    assert wide(messages.greeting(started)) in blocks("docs/usage.md")
    in_door = [block for block in blocks("docs/door.md") if block.startswith(PREFIX)]
    first = pace.progress_words(pace.ReadingPosition(4_400, 1_600), 41.0)
    assert in_door == [door_answer(), f"{PREFIX}{first}\n"]
    in_readme = [block for block in blocks("README.md") if block.startswith(PREFIX)]
    (last,) = (block for block in shown if "blocked by the kernel" in block)
    assert in_readme == [shown[0], shown[-2], last]
    in_air_gap = [block for block in blocks("docs/air-gap.md") if block.startswith(PREFIX)]
    assert in_air_gap == [
        wide(last_line(MODELS, ANALYTICS, RAW)),
        wide(last_line(THROUGH)),
        wide(first_notice(DOCKER)),
    ]


# Journal


def names(kinds: tuple[type, ...]) -> dict[str, type]:
    """Classes by the names that the journal gives them."""
    return {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in kinds}


@pytest.mark.parametrize(("at", "union"), [(0, Event), (1, Action)])
def test_the_journals_names_and_facts_are_those_of_the_classes(at: int, union: Any) -> None:
    """docs/journal.md lists each event and action that is written down, with its facts, and no other."""
    kinds = names(get_args(union))
    for unwritten in (
        SetDeadline,
        CancelDeadline,
        Announce,
    ):  # the engine does not write these down
        kinds = {name: kind for name, kind in kinds.items() if kind is not unwritten}
    text = read("docs/journal.md").split("\n## ")[1 + at]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE)

    assert {name for name, _ in rows} == set(kinds)
    for name, facts in rows:
        fields = dataclasses.fields(kinds[name])
        written = {field.name for field in fields if field.metadata.get("journal", True)}
        assert set(re.findall(r"`(\w+)`", facts)) == written, name


def test_the_example_of_a_journal_line_has_the_journals_keys(tmp_path: Path) -> None:
    """The line that is shown is one the journal writes for that event, with another clock."""
    path = tmp_path / "journal.jsonl"
    with path.open("w", encoding="utf-8") as file:
        journal = FileJournal(file, clock=lambda: 0.0, on_failure=pytest.fail)
        journal.write(NoticeShown("context_filling"))
    written, (shown,) = path.read_text(encoding="utf-8"), blocks("docs/journal.md")
    clocks = re.compile(r'("t": )[\d.]+|("at": )"[\d:.TZ-]+"')

    assert clocks.sub(r"\1\2", shown) == clocks.sub(r"\1\2", written)


# Status


def facts() -> dict[str, Any]:
    """A session with everything known, as ``status --json`` shows it."""
    gpu = Gpu(0, "card", 2, 1, ())
    state = State(
        phase=Phase.RUNNING,
        main_model="m",
        pinned_tokens=8192,
        context=reading(),
        memory=MemoryReading((gpu,), RamReading(3, 2, 1), 0.0),
        loaded=ModelsReading((LoadedModel("m", "", 2, 1, 8192),), 0.0),
        last_notice="restarted",
        reading=ReadingEstimated(1, "m", 3, 1, 1, 2.0, "slots"),
        last_turn=TurnFinished(1),
    )
    return control.session_facts(state, session_id="id", pid=1)


def key_paths(value: Any, prefix: str) -> set[str]:
    """The paths to every key in nested objects and lists."""
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{prefix}[]") for item in value))
    if not isinstance(value, dict):
        return set()
    below = (key_paths(item, f"{prefix}.{key}") for key, item in value.items())
    return {f"{prefix}.{key}" for key in value}.union(*below)


def test_the_keys_of_status_are_those_documented() -> None:
    """docs/status-json.md lists each key that ``status --json`` prints, and no other."""
    rows = [code(row[0]) for row in table("docs/status-json.md", "key")]

    assert len(rows) == len(set(rows))
    assert {f"sessions[]{key}" for key in key_paths(facts(), "")} == set(rows)


# Lifecycle


def test_the_phases_are_those_documented() -> None:
    """docs/lifecycle.md has each phase once, in order."""
    rows = [code(row[0]) for row in table("docs/lifecycle.md", "phase")]

    assert rows == [phase.value for phase in Phase]


EVENTS: tuple[Event, ...] = (
    AiderStarted(1, 1),
    *(AiderExited(status) for status in (0, 1, -2, -9)),
    LaunchForbidden((Finding("a", "stop", "what"),)),
    PromptShown(),
    PromptSettled(),
    TurnFinished(1),
    ChatSaved(),
    ChatSaved(problem="x"),
    CommandNotTyped("exit"),
    AiderRetired(),
    *(OfferAnswered(accepted) for accepted in (True, False)),
    SidecarLost("x"),
    ModelsUnloaded((), 0, 0.0),
    RestartRequested(),
    TerminationRequested(15),
    *(DeadlinePassed(name) for name in ("stop", "kill", "unload", "backoff", "end")),
)
WITHOUT_AIDER = (Phase.UNLOADING, Phase.OFFERING, Phase.BACKOFF, Phase.ENDING, Phase.ENDED)


def states() -> Iterator[State]:
    """Every phase, with and without everything that a transition may ask for."""
    ours = ModelsReading((LoadedModel("m", "", 1, 0, 8192),), 0.0)
    either = (False, True)
    for phase, flags in product(Phase, product(either, repeat=6)):
        due, settled, restart, loaded, ending, failed = flags
        yield State(
            phase=phase,
            prompt=PromptShown(),
            settled=settled,
            restart_due="asked" if due else "",
            restart=Restart("asked", 0.0) if restart else None,
            loaded=ours if loaded else Unavailable("not read"),
            models=("m",),
            foreign_models=frozenset(),
            termination=15 if ending else 0,
            start_failures=3 if failed else 0,
        )


def transitions() -> set[tuple[str, str, str]]:
    """Every change of the phase that the policy makes: from, event, to."""
    found = set()
    for state, event in product(states(), EVENTS):
        if state.phase in WITHOUT_AIDER and isinstance(event, AiderExited):
            continue  # there is none that could end
        to = decide(state, event, 0.0)[0].phase
        (name,) = names((type(event),))
        if (state.phase, to) == (Phase.RUNNING, Phase.SAVING):
            name = "any"
        if to is not state.phase:
            found.add((state.phase.value, name, to.value))
    return found


def test_the_transitions_are_those_documented() -> None:
    """docs/lifecycle.md lists exactly the transitions that the policy makes."""
    rows = [tuple(code(cell) for cell in row[:3]) for row in table("docs/lifecycle.md", "from")]

    assert len(rows) == len(set(rows))
    assert set(rows) == transitions()


# Links


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every link to a file of the project finds it, and every one to a heading finds that."""
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target
