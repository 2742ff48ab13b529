"""``aider-guard init``: what it says, what it writes, and what it leaves alone."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aider_guard.catalogue import find
from aider_guard.config import Config
from aider_guard.core.fit import Card, choose_window, fit
from aider_guard.core.readings import Gpu, MemoryReading, RamReading, Unavailable
from aider_guard.core.server_report import InstalledModel, ModelFacts, ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.server_runtime import runtime_of
from aider_guard.view.init import run_init

GIB = 1 << 30
CONF, SETTINGS = ".aider.conf.yml", ".aider.model.settings.yml"
SILENT = Unavailable("Ollama cannot be reached at http://127.0.0.1:11434 (connection refused)")
RAM = RamReading(64 * GIB, 32 * GIB, 0)
NO_GPU = MemoryReading(Unavailable("no NVIDIA driver is installed"), RAM, 0.0)


def facts(name: str) -> ModelFacts:
    """What ``/api/show`` says of a model of the catalogue."""
    entry = find(name)
    assert entry is not None, name
    trained = entry.architecture.trained_tokens
    return ModelFacts(name, name, entry.size_bytes, trained, entry.architecture, blob=f"b-{name}")


def server(*names: str, is_local: bool = True) -> ServerReport:
    """An Ollama with these models; without any it does not answer."""
    missing = Unavailable("not asked")
    return ServerReport(
        base="http://127.0.0.1:11434",
        is_local=is_local,
        version="0.30.11" if names else SILENT,
        installed=tuple(InstalledModel(name, 1, "d") for name in names) if names else SILENT,
        loaded=missing,
        cloud_disabled=missing,
        process=missing,
        models={name: facts(name) for name in names},
    )


class Terminal(io.StringIO):
    """Somewhere to print that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class User:
    """A user with a repository, a home folder, and perhaps an Ollama and a card."""

    folder: Path
    home: Path
    report: ServerReport = field(default_factory=server)
    memory: MemoryReading = NO_GPU
    status: int = -1
    asked: list[str] = field(default_factory=list)
    screen: type[io.StringIO] = io.StringIO

    def init(self, *vram: str, write: bool = False, colour: bool | None = None) -> str:
        """Run it; what it printed."""
        out = self.screen()

        def ask(base: str) -> ServerReport:
            self.asked.append(base)
            return self.report

        self.status = run_init(
            Config(),
            vram=vram,
            write=write,
            folder=self.folder,
            home=self.home,
            environment={},
            ask=ask,
            memory=lambda: self.memory,
            state_dir=self.home / "state",
            out=out,
            colour=colour,
        )
        return out.getvalue()

    def has(self, name: str, text: str) -> None:
        """Put a file into the repository."""
        (self.folder / name).write_bytes(text.encode())

    def conf(self) -> dict[str, Any]:
        """The written settings."""
        found: dict[str, Any] = yaml.safe_load((self.folder / CONF).read_text())
        return found

    def window(self) -> int:
        """The written window."""
        (entry,) = yaml.safe_load((self.folder / SETTINGS).read_text())
        assert entry["name"] == "aider/extra_params"
        return int(entry["extra_params"]["num_ctx"])

    def files(self) -> dict[str, bytes]:
        """The files in the repository."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}


@pytest.fixture
def user(tmp_path: Path) -> User:
    for name in ("repo", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "repo" / ".git").mkdir()
    return User(tmp_path / "repo", tmp_path / "home")


@pytest.mark.parametrize("vram", [["8"], ["16"], ["24"], ["2x24"], ["24", "24"]])
def test_what_is_written_for_a_card_fits_on_it(user: User, vram: Sequence[str]) -> None:
    """The models in the files, loaded with the window in the files, are in memory at once."""
    user.init(*vram, write=True)

    conf = user.conf()
    names = [conf[key] for key in ("model", "editor-model", "weak-model") if key in conf]
    models = [
        entry.candidate
        for name in dict.fromkeys(names)
        if (entry := find(name.removeprefix("ollama_chat/")))
    ]
    sizes = [24, 24] if len(vram) > 1 or "x" in vram[0] else [int(vram[0])]
    cards = [Card("", size * GIB, size * GIB) for size in sizes]
    assert len(models) == len(set(names))
    assert fit(models, cards, user.window(), runtime_of(user.report)).fits
    assert user.window() == choose_window(models, cards, runtime_of(user.report))


def test_two_cards_get_architect_mode_and_one_does_not(user: User) -> None:
    """With an editor beside the main model; the weak model is never a third one."""
    user.init("24", write=True)
    single = user.conf()
    for name in (CONF, SETTINGS):
        (user.folder / name).unlink()
    user.init("2x24", write=True)
    two = user.conf()

    assert "architect" not in single
    assert "editor-model" not in single
    assert single["weak-model"] == single["model"]
    assert two["architect"] is True
    assert two["weak-model"] == two["editor-model"] != two["model"]


def test_the_habits_suit_a_small_window(user: User) -> None:
    """Map refreshed automatically, no attribution, no commits of unfinished work, no tests after each edit."""
    user.has("pytest.ini", "")
    user.init("4", write=True)
    conf = user.conf()

    assert conf["map-tokens"] == 1024
    assert conf["map-refresh"] == "auto"
    assert conf["dirty-commits"] is False
    assert conf["auto-test"] is False
    assert conf["test-cmd"] == "python -m pytest --tb=short -q"
    attribution = {key: value for key, value in conf.items() if key.startswith("attribute-")}
    assert len(attribution) == 5
    assert not any(attribution.values())
    assert "edit-format" not in conf


def test_the_documented_settings_are_those_that_are_written(user: User) -> None:
    """docs/init.md lists each key that can come, in the order of the file, with the values that are always the same."""
    user.has("pytest.ini", "")
    user.init("2x24", write=True)
    text = (Path(__file__).parents[2] / "docs" / "init.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (`\w+`)?", text, re.M)

    assert [key for key, _ in rows] == list(user.conf())
    for key, value in rows:
        if value:
            assert value.strip("`") == str(user.conf()[key]).lower()


def test_without_write_nothing_is_written_and_the_diff_is_shown(user: User) -> None:
    """The diff is what a later --write writes."""
    user.has(CONF, "dark-mode: true\n# mine")
    before = user.files()
    output = user.init("8")

    assert (user.status, user.files()) == (0, before)
    assert output.endswith("nothing was written; to write this: aider-guard init --write\n")
    assert "\x1b" not in output
    user.init("8", write=True)
    added = [line[1:] for line in output.splitlines() if line.startswith("+") and line[1:2] != "+"]
    written = user.files()[CONF].decode() + user.files()[SETTINGS].decode()
    assert [line for line in written.splitlines() if line not in {"dark-mode: true"}] == added


def test_it_says_what_was_chosen_and_what_is_to_be_done_first(user: User) -> None:
    """The models with their reasons, the window with what it takes, the pull as a line to paste."""
    output = user.init("16")

    assert "for 16 GiB of GPU memory that nothing else uses:" in output
    assert (
        "  main    gpt-oss:20b (not installed yet): a part of its parameters works on a" in output
    )
    assert "\nollama pull gpt-oss:20b\n" in output
    assert "tokens: weights 11.8 GiB and cache " in output
    assert "connection refused); the models are from the catalogue" in output
    assert "none found, so no test-cmd is suggested" in output


def test_installed_models_need_no_pull_and_a_preferred_one_is_reported(user: User) -> None:
    """What is there is taken; what would be better is a line to paste."""
    user.report = server("qwen3:8b", "qwen3:4b")
    output = user.init("16", write=True)

    assert user.conf()["model"] == "ollama_chat/qwen3:8b"
    assert "before the first start" not in output
    assert "a model that is better at code fits too: ollama pull gpt-oss:20b" in output


def test_installed_models_that_are_left_out_are_named_with_the_reason(user: User) -> None:
    """The largest four; what is not installed is no choice that was refused."""
    small = "qwen2.5-coder:1.5b"
    user.report = server("qwen3:8b", "qwen3:32b", small)
    text = user.init("16")
    assert "  others  qwen3:32b: does not fit with 16,384 tokens\n" in text
    assert f"          {small}: fits, but others are better at code\n" in text
    assert " more\n" not in text

    names = ("qwen3:8b", "qwen3:32b", "qwen3:30b", "qwen2.5-coder:32b", "qwen3:14b", small)
    embedding = replace(facts("qwen3:32b"), name="nomic-embed-text", resolved="nomic-embed-text")
    models = {"nomic-embed-text": embedding, **server(*names).models}
    listed = tuple(InstalledModel(name, 1, "d") for name in models)
    user.report = replace(server(*names), installed=listed, models=models)
    text = user.init("8")
    assert "nomic-embed-text: does not chat" in text
    assert "          and " in text


def test_the_cards_that_are_found_count_with_what_is_free(user: User) -> None:
    """The memory of other programs is subtracted, and reported."""
    user.memory = replace(NO_GPU, gpus=(Gpu(0, "NVIDIA Fake", 16 * GIB, 8 * GIB, ()),))
    output = user.init()

    assert "for NVIDIA Fake (8.0 GiB of 16 GiB free for Ollama):" in output
    assert "gpt-oss:20b" not in output


@pytest.mark.parametrize(
    ("report", "memory", "why"),
    [
        (server(), NO_GPU, "no GPU was found here (no NVIDIA driver is installed)"),
        (server("qwen3:8b", is_local=False), NO_GPU, "Ollama is on another machine"),
    ],
)
def test_without_a_card_its_size_is_asked_for(
    user: User, report: ServerReport, memory: MemoryReading, why: str
) -> None:
    """One sentence with the flag; nothing is written."""
    user.report, user.memory = report, memory
    with pytest.raises(ConfigError) as raised:
        user.init(write=True)

    assert why in str(raised.value)
    assert "--vram 16" in str(raised.value)
    assert user.files() == {}


def test_a_size_that_is_none_is_refused_before_anyone_is_asked(user: User) -> None:
    """With the form that is meant."""
    with pytest.raises(ConfigError, match="2x24"):
        user.init("much")

    assert user.asked == []


def test_a_card_that_is_too_small_is_reported(
    user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the list fits: one sentence on standard error, status 1, no file."""
    user.init("1", write=True)

    assert (user.status, user.files()) == (1, {})
    assert "8,192" in capsys.readouterr().err


def test_a_second_time_nothing_changes(user: User) -> None:
    """Neither the files nor what is chosen, also on a card that is another by now."""
    user.has("pytest.ini", "")
    user.init("2x24", write=True)
    before = user.files()
    for vram in ("2x24", "16"):
        output = user.init(vram, write=True)
        assert (user.status, user.files()) == (0, before)
        assert output.endswith("nothing to add\n")
    assert "your own settings, which stay:" not in user.init("2x24")


def test_the_users_lines_are_kept_and_a_backup_left(user: User) -> None:
    """What was set stays and is shown with the suggestion; the window is that of the user's model."""
    old = "# my settings\r\nmodel:  'ollama_chat/qwen3:8b'   # good\r\nmap-tokens: 0\r\nauto-test: on\r\n"
    user.has(CONF, old)
    output = user.init("24", write=True)

    assert user.files()[CONF].decode().startswith(old)
    assert user.files()[f"{CONF}.bak"].decode() == old
    assert user.conf()["weak-model"] == "ollama_chat/qwen3:8b"
    assert "architect" not in user.conf()
    assert f"  map-tokens: 0 in {CONF} (suggested: 4096)" in output
    assert f"  auto-test: true in {CONF} (suggested: false)" in output
    assert f"{CONF} was written; the old file is {CONF}.bak" in output
    entry = find("qwen3:8b")
    assert entry is not None
    card = Card("", 24 * GIB, 24 * GIB)
    assert user.window() == choose_window([entry.candidate], [card], runtime_of(user.report))


def test_models_of_a_cloud_are_left_alone(user: User) -> None:
    """No local editor beside them and no window for them: the habits are added, and the output says why."""
    user.has(CONF, "model: gpt-4o\n")
    output = user.init("24", write=True)

    assert "no window is suggested: not all of your models run on Ollama: gpt-4o" in output
    assert user.conf()["model"] == "gpt-4o"
    assert "weak-model" not in user.conf()
    assert user.conf()["dirty-commits"] is False
    assert SETTINGS not in user.files()


def test_a_weak_model_of_the_users_is_counted(user: User) -> None:
    """The main model is chosen, and the window is the one for both."""
    user.has(CONF, "weak-model: ollama_chat/qwen3:4b\n")
    output = user.init("24", write=True)

    assert user.conf()["weak-model"] == "ollama_chat/qwen3:4b"
    assert "editor-model" not in user.conf()
    assert "\nollama pull qwen3:4b\n" in output


def test_an_editor_of_the_users_does_not_switch_architect_mode_on(user: User) -> None:
    """They named it for their own mode; the window is the one for both models."""
    user.has(CONF, "model: ollama_chat/qwen3:14b\neditor-model: ollama_chat/qwen3:8b\n")
    user.init("2x24", write=True)

    assert "architect" not in user.conf()
    models = [entry.candidate for name in ("qwen3:14b", "qwen3:8b") if (entry := find(name))]
    cards = [Card("", 24 * GIB, 24 * GIB)] * 2
    assert user.window() == choose_window(models, cards, runtime_of(user.report))


def test_the_repositorys_model_holds_over_the_one_of_the_home_folder(user: User) -> None:
    """As Aider reads them."""
    (user.home / CONF).write_text("model: ollama_chat/qwen3:4b\n")
    user.has(CONF, "model: ollama_chat/qwen3:8b\n")
    user.init("24", write=True)

    assert user.conf()["weak-model"] == "ollama_chat/qwen3:8b"


def test_a_model_by_another_of_its_published_names_is_known(user: User) -> None:
    """The tag that names its quantisation is the same file."""
    user.has(CONF, "model: ollama_chat/qwen3:8b-q4_K_M\n")
    output = user.init("24", write=True)

    assert "no window" not in output
    assert user.conf()["weak-model"] == "ollama_chat/qwen3:8b-q4_K_M"


def test_an_empty_model_names_none(user: User) -> None:
    """The line stays, and the output shows what is suggested."""
    user.has(CONF, "model:\n")
    output = user.init("16", write=True)

    assert f"  model: (empty) in {CONF} (suggested: ollama_chat/gpt-oss:20b)" in output
    assert user.conf()["weak-model"] == "ollama_chat/gpt-oss:20b"


def test_a_window_that_the_user_fixed_is_kept_and_the_map_suits_it(user: User) -> None:
    """The suggestion is shown; a map for a larger window would take too much of theirs."""
    old = "- name: aider/extra_params\n  extra_params: {num_ctx: 8192}\n"
    user.has(SETTINGS, old)
    output = user.init("24", write=True)

    assert user.files()[SETTINGS].decode() == old
    assert user.conf()["map-tokens"] == 1024
    assert f"  aider/extra_params: num_ctx 8192 in {SETTINGS} (suggested: num_ctx " in output


def test_what_the_home_folder_sets_is_kept(user: User) -> None:
    """Aider reads those files first, and a line here would beat them."""
    (user.home / CONF).write_text("dirty-commits: true\nmodel: ollama_chat/qwen3:4b\n")
    (user.home / SETTINGS).write_text("- name: aider/extra_params\n  extra_params: {num_ctx: 9}\n")
    output = user.init("24", write=True)

    assert "dirty-commits" not in user.conf()
    assert "model" not in user.conf()
    assert SETTINGS not in user.files()
    assert f"  dirty-commits: true in ~/{CONF} (suggested: false)" in output
    assert f"in ~/{SETTINGS}" in output


def test_a_repository_that_is_the_home_folder_is_read_once(user: User) -> None:
    """Its settings are not also those of the home folder."""
    user.has(CONF, "map-tokens: 0\n")
    user.has(SETTINGS, "- name: aider/extra_params\n  extra_params: {num_ctx: 9}\n")
    user.home = user.folder
    output = user.init("8")

    assert output.count("map-tokens: 0 in") == output.count("num_ctx 9 in") == 1
    assert "~/" not in output


@pytest.mark.parametrize("place", ["repo", "home"])
@pytest.mark.parametrize("name", [CONF, SETTINGS])
def test_broken_yaml_is_one_sentence_and_nothing_is_written(
    user: User, capsys: pytest.CaptureFixture[str], place: str, name: str
) -> None:
    """The file's name and line, status 1; no server is asked."""
    folder = user.folder if place == "repo" else user.home
    (folder / name).write_text("- a: [\nb")
    before = user.files()
    output = user.init("8", write=True)

    assert (output, user.status, user.files(), user.asked) == ("", 1, before, [])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
    assert ("~/" in error) is (place == "home")


def test_outside_a_repository_it_is_for_the_folder(user: User) -> None:
    """And says so."""
    (user.folder / ".git").rmdir()
    output = user.init("8", write=True)

    assert output.startswith(f"not in a git repository: this is for {user.folder}\n")
    assert CONF in user.files()


def test_in_a_folder_below_it_is_for_the_repository(user: User) -> None:
    """Aider reads the file at the root of the work tree, wherever it is started."""
    root, below = user.folder, user.folder / "src" / "deep"
    below.mkdir(parents=True)
    user.folder = below
    output = user.init("8", write=True)

    assert "not in a git repository" not in output
    assert (root / CONF).exists()
    assert user.files() == {}


def test_a_folder_that_cannot_be_written_is_reported(
    user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the model settings' place leads nowhere: neither file is written."""
    (user.folder / SETTINGS).symlink_to("nowhere/else")
    user.init("8", write=True)

    assert user.status == 1
    assert "nothing was written" in capsys.readouterr().err
    assert [path.name for path in user.folder.iterdir() if path.is_file()] == []


def test_colours_are_for_terminals_that_want_them(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the diff has them; NO_COLOR and a file turn them off."""
    plain, coloured = user.init("8"), user.init("8", colour=True)
    assert "\x1b[32m+model: " in coloured
    assert plain == re.sub(r"\x1b\[3?\dm", "", coloured)

    user.screen = Terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in user.init("8")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in user.init("8")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in user.init("8")


def test_nothing_that_moves_the_cursor_is_printed(user: User) -> None:
    """Names in a repository's files may hold anything."""
    user.has(CONF, 'model: "ollama_chat/\\e[2J"\n')
    user.has("test_\x1b[2Jx.py", "")
    output = user.init("8")

    assert "\x1b" not in output
    assert "\ufffd" in output


def test_ollamas_own_cloud_is_not_asked(user: User) -> None:
    """The address is the user's, but there is nothing local to find out there."""
    out = io.StringIO()
    run_init(
        Config(ollama="https://ollama.com"),
        vram=["8"],
        folder=user.folder,
        home=user.home,
        environment={},
        ask=pytest.fail,
        state_dir=user.home,
        out=out,
    )

    assert "cloud is not asked; the models are from the catalogue" in out.getvalue()


def test_what_a_model_was_measured_to_need_beyond_the_formula_counts(user: User) -> None:
    """The differences that sessions remember (launch/server_runtime.py) make the window smaller."""
    user.report = server("qwen3:8b")
    user.init("16", write=True)
    before = user.window()
    (user.folder / SETTINGS).unlink()
    (user.home / "state").mkdir()
    (user.home / "state" / "needs.json").write_text(f'{{"qwen3:8b": {6 * GIB}}}')
    user.init("16", write=True)

    assert user.window() < before


def test_new_files_have_the_mode_of_the_users_mask(user: User) -> None:
    """Nothing in them is secret, and nothing is decided here."""
    mask = os.umask(0o077)
    try:
        user.init("8", write=True)
    finally:
        os.umask(mask)

    assert {(user.folder / name).stat().st_mode & 0o777 for name in (CONF, SETTINGS)} == {0o600}
