"""What each command shows on a small, a usual and a large terminal, kept as files that were read by eye.

``make renew`` writes them anew: read the difference.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from checks.worlds import MAIN, model, process, role, server, world
from core.histories_of_events import at_first_prompt
from golden import assert_is_screen

from aider_guard import cli, config
from aider_guard.catalogue import find
from aider_guard.checks.all import examine
from aider_guard.completion import script
from aider_guard.config import Config
from aider_guard.core.egress import Place
from aider_guard.core.readings import (
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import InstalledModel, ModelFacts, ModelMissing, ServerReport
from aider_guard.demo import demo, rig
from aider_guard.demo.ollama_server import PrivateOllama
from aider_guard.demo.progress import Progress
from aider_guard.session import control
from aider_guard.view import status
from aider_guard.view.doctor import render
from aider_guard.view.fit import run_fit
from aider_guard.view.init import run_init
from aider_guard.view.page import Page, columns_of
from aider_guard.view.settings import run_show_settings

SIZES = ((60, 15), (80, 24), (200, 50))
GIB = 1 << 30
RAM = RamReading(64 * GIB, 32 * GIB, 0)
CARD = MemoryReading((Gpu(0, "NVIDIA GeForce RTX 4080", 16 * GIB, 2 * GIB, ()),), RAM, 0.0)
OLLAMA = "http://127.0.0.1:11434"
LEAK = role("weak", "gpt-4o", "AIDER_WEAK_MODEL in /home/ada/till/.env")
SERVER = server(version="0.31.0", process=process(OLLAMA_NUM_PARALLEL="4"))
PROSE = {"help", "fit", "status", "config", "demo"}
"""The screens on which nothing is to be pasted: no line is longer than the terminal."""


class Screen(io.StringIO):
    """A terminal without colours, of the size in COLUMNS and LINES."""

    def isatty(self) -> bool:
        return True


def shown_help(_: Path) -> str:
    return (
        cli.main.get_help(
            click.Context(cli.main, info_name="aider-guard", **cli.main.context_settings)
        )
        + "\n"
    )


def shown_doctor(_: Path) -> str:
    facts = world(role("main", MAIN, "--model"), LEAK, server=SERVER, restore_chat_history=True)
    size = shutil.get_terminal_size()
    return render(facts, examine(facts), Page(size.columns, size.lines))


def no_server(base: str, *_: object) -> ServerReport:
    """An Ollama that does not answer."""
    silent = Unavailable(f"Ollama cannot be reached at {base} (connection refused)")
    return replace(server(), version=silent, installed=silent, loaded=silent, models={})


def shown_fit(folder: Path) -> str:
    out = Screen()
    models = ("qwen3:32b", "qwen3:8b")
    for names in (("qwen3:8b",), models):
        run_fit(
            Config(ollama=OLLAMA),
            names,
            vram=("8",),
            environment={},
            ask=no_server,
            state_dir=folder,
            out=out,
        )
        out.write("\n")
    return out.getvalue()


def shown_init(folder: Path) -> str:
    out = Screen()
    (folder / ".git").mkdir()
    models: dict[str, ModelFacts | ModelMissing | Unavailable] = {
        name: known(name) for name in ("qwen3:8b", "qwen3:32b", "qwen2.5-coder:1.5b")
    }
    listed = tuple(InstalledModel(name, 1, "") for name in models)
    run_init(
        Config(ollama=OLLAMA),
        folder=folder,
        home=folder / "home",
        environment={},
        ask=lambda _: replace(server(), installed=listed, models=models),
        memory=lambda: CARD,
        state_dir=folder,
        out=out,
        colour=False,
    )
    return out.getvalue()


def known(name: str) -> ModelFacts:
    """A model of the catalogue, installed."""
    entry = find(name)
    assert entry is not None
    return model(name, size_bytes=entry.size_bytes, architecture=entry.architecture)


def shown_status(_: Path) -> str:
    loaded = LoadedModel("qwen3:8b", "", 7 * GIB, 7 * GIB, 16_384)
    story = at_first_prompt()
    story.measured_turn(5_000, 100)
    state = replace(story.state, memory=CARD, loaded=ModelsReading((loaded,), 0.0), main_model=MAIN)
    facts = control.session_facts(state, session_id="20261130-1", pid=812, folder="/home/ada/till")
    stopped = {**facts, "id": "20261130-2", "pid": 813, "phase": "stopped"}
    return status.table([facts, stopped], columns_of(Screen()))


def shown_config(_: Path) -> str:
    values = Config(warn_at=70, allow=(Place("github.com", 22), Place("127.0.0.1", 5432)))
    named = {"warn-at": "AIDER_GUARD_WARN_AT", "allow": "/home/ada/till/.aider-guard.toml"}
    sources = {name: named.get(name, "default") for name in config.SETTINGS}
    out = Screen()
    with contextlib.redirect_stdout(out):
        run_show_settings(values, sources, as_json=False)
    return out.getvalue()


def shown_demo(folder: Path) -> str:
    """Where nothing was installed yet, and each step takes a while; the session's own screen left out."""
    out = Screen()

    @contextlib.contextmanager
    def private_ollama(*_: Path) -> Iterator[PrivateOllama]:
        yield PrivateOllama(OLLAMA, 1, folder / "log")

    def session(_arguments: list[str], _settings: dict[str, str]) -> int:
        out.write("\n[the session]\n\n")
        return 0

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setattr(rig, "check_machine", lambda *_: None)
        patch.setattr(rig, "ensure_part", lambda place, *_: place.mkdir())
        patch.setattr(demo, "private_ollama", private_ollama)
        patch.setattr(demo, "_own_command", lambda: "aider-guard")
        clock = itertools.count(0, 9)
        progress = Progress(out, live=True, clock=lambda: float(next(clock)), pulse_seconds=None)
        assert demo._demonstrate(session, folder, progress) == 0
    (sample,) = folder.glob("aider-guard-demo-*")
    return (
        out.getvalue()
        .replace("\r\x1b[K", "")
        .replace(str(sample), "/tmp/aider-guard-demo-1a2b3c4d")
    )


def shown_completion(_: Path) -> str:
    return script(cli.main, "fish") + "\n"


COMMANDS: dict[str, Callable[[Path], str]] = {
    "help": shown_help,
    "doctor": shown_doctor,
    "fit": shown_fit,
    "init": shown_init,
    "status": shown_status,
    "config": shown_config,
    "completion": shown_completion,
    "demo": shown_demo,
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_screens_are_those_that_were_read(
    name: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fakes of everything that differs from machine to machine."""
    columns, lines = size
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    text = COMMANDS[name](tmp_path)
    if name in PROSE:
        assert [line for line in text.splitlines() if len(line) > columns] == []
    assert text.count("(") == text.count(")")
    assert_is_screen(f"{name}-{columns}x{lines}", text)
