"""The window that is fixed, and the files that fix it, merged with the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch.aider_settings import EVERY_MODEL, AiderSettings
from aider_guard.launch.pins import (
    Pins,
    make_pins,
    read_metadata,
    read_settings,
    window_to_pin,
    write_pins,
)

MAIN, WEAK = "ollama_chat/main", "ollama/weak"
UNKNOWN = Unavailable("no answer")


class User:
    """A user's files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: list[str] = []
        self.metadata: list[str] = []

    def has_settings(self, text: str) -> User:
        self.settings.append(self._file(f"{len(self.settings)}.yml", text))
        return self

    def has_metadata(self, text: str) -> User:
        self.metadata.append(self._file(f"{len(self.metadata)}.json", text))
        return self

    def _file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)

    def pins(
        self,
        requested: int | None = None,
        trained: dict[str, int | Unavailable] | None = None,
        **models: str,
    ) -> Pins:
        aider = AiderSettings(
            **(models or {"model": MAIN}),  # type: ignore[arg-type]  # names of models only
            model_settings_files=tuple(self.settings),
            model_metadata_files=tuple(self.metadata),
        )
        return make_pins(aider, requested, trained or {})


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def entry(pins: Pins, name: str) -> dict[str, Any]:
    """The one entry of this name."""
    (entry,) = (dict(each) for each in pins.settings if each["name"] == name)
    return entry


WINDOWS: list[tuple[int | None, dict[str, int | Unavailable], int]] = [
    (None, {}, 8192),
    (None, {"main": UNKNOWN}, 8192),
    (None, {"main": 131072}, 8192),
    (None, {"main": 2048}, 2048),
    (None, {"main": 131072, "weak": 4096, "editor": UNKNOWN}, 4096),
    (16384, {}, 16384),
    (16384, {"main": 131072}, 16384),
    (16384, {"main": 4096}, 4096),
    (16384, {"main": UNKNOWN}, 16384),
]


@pytest.mark.parametrize(("requested", "trained", "window"), WINDOWS)
def test_the_window_is_what_was_asked_for_or_8192_and_never_more_than_the_models_own(
    requested: int | None, trained: dict[str, int | Unavailable], window: int
) -> None:
    """The shortest trained context that is known bounds both."""
    assert window_to_pin(requested, {}, MAIN, trained) == window


def pinned(num_ctx: object) -> dict[str, Any]:
    return {"extra_params": {"num_ctx": num_ctx}}


FITTING: list[tuple[int | None, int | None, int]] = [
    (None, 20_480, 20_480),
    (None, 200_000, 131_072),
    (None, None, 8192),
    (4096, 20_480, 4096),
]


@pytest.mark.parametrize(("requested", "fitting", "window"), FITTING)
def test_without_a_wish_it_is_the_largest_window_that_fits(
    requested: int | None, fitting: int | None, window: int
) -> None:
    """At most the trained context; a number that was asked for wins."""
    assert window_to_pin(requested, {}, MAIN, {"main": 131_072}, fitting) == window


USERS: list[tuple[dict[str, dict[str, Any]], int | None, int]] = [
    ({MAIN: pinned(20_000)}, None, 20_000),
    ({EVERY_MODEL: pinned(30_000)}, None, 30_000),
    ({EVERY_MODEL: pinned(30_000), MAIN: pinned(20_000)}, None, 30_000),
    ({MAIN: pinned(20_000)}, 4096, 4096),
    ({WEAK: pinned(20_000)}, None, 8192),
    ({MAIN: pinned(16384.0)}, None, 16_384),
    ({MAIN: pinned(16384.5)}, None, 8192),
    ({MAIN: pinned(True)}, None, 8192),
    ({MAIN: pinned(0)}, None, 8192),
    ({MAIN: pinned("many")}, None, 8192),
    ({MAIN: {"extra_params": None}}, None, 8192),
    ({MAIN: {}}, None, 8192),
]


@pytest.mark.parametrize(("settings", "requested", "window"), USERS)
def test_the_users_own_window_is_respected(
    settings: dict[str, dict[str, Any]], requested: int | None, window: int
) -> None:
    """What the user's files pin for the main model, or for every model as Aider does, unless a flag says otherwise."""
    trained: dict[str, int | Unavailable] = {"main": 40_960, "weak": 9000}
    assert window_to_pin(requested, settings, MAIN, trained) == window


def test_the_users_own_window_is_not_more_than_the_main_model_holds() -> None:
    """Ollama caps it silently; a smaller model beside it is no reason to make the main model's window smaller."""
    trained: dict[str, int | Unavailable] = {"main": 10_000, "weak": 2048}
    for settings in ({MAIN: pinned(20_000)}, {EVERY_MODEL: pinned(20_000)}):
        assert window_to_pin(None, settings, MAIN, trained) == 10_000
    assert window_to_pin(None, {MAIN: pinned(20_000)}, MAIN, {"main": UNKNOWN}) == 20_000


def test_every_model_gets_the_window(user: User) -> None:
    """Without files of the user's one entry is enough: Aider applies it to models that are switched to later too."""
    pins = user.pins(model=MAIN, weak_model=WEAK)
    assert pins.settings == [{"name": EVERY_MODEL, "extra_params": {"num_ctx": 8192}}]
    assert set(pins.metadata) == {MAIN, WEAK}


def test_what_the_users_entries_say_besides_is_kept(user: User) -> None:
    """An entry of ours replaces one of the same name as a whole, so it carries everything of the user's."""
    user.has_settings(
        f"- name: {EVERY_MODEL}\n  extra_params: {{keep_alive: 30m, num_ctx: 4096}}\n"
        f"- name: {MAIN}\n  edit_format: diff\n  extra_params: {{temperature: 0.2}}\n"
        "- name: ollama_chat/other\n  edit_format: whole\n"
    )
    pins = user.pins(16384)
    every, main = entry(pins, EVERY_MODEL), entry(pins, MAIN)
    assert every["extra_params"] == {"keep_alive": "30m", "num_ctx": 16384}
    assert main == {
        "name": MAIN,
        "edit_format": "diff",
        "extra_params": {"temperature": 0.2, "num_ctx": 16384},
    }
    assert len(pins.settings) == 2


def test_a_later_file_replaces_an_earlier_entry_as_aider_does(user: User) -> None:
    """Home, git root, folder, then the file that was named: entries are not mixed."""
    user.has_settings(f"- name: {MAIN}\n  edit_format: diff\n  extra_params: {{num_ctx: 4096}}\n")
    user.has_settings(f"- name: {MAIN}\n  lazy: true\n")
    pins = user.pins()
    assert pins.window_tokens == 8192
    assert entry(pins, MAIN) == {"name": MAIN, "lazy": True, "extra_params": {"num_ctx": 8192}}


def test_another_providers_model_gets_nothing(user: User) -> None:
    """num_ctx would be refused there: then only Ollama's models are named, and there is no entry for every model."""
    user.has_settings(f"- name: {EVERY_MODEL}\n  extra_params: {{keep_alive: 30m}}\n")
    pins = user.pins(model=MAIN, weak_model="gpt-4o-mini", editor_model=WEAK)
    assert [each["name"] for each in pins.settings] == [MAIN, WEAK]
    assert set(pins.metadata) == {MAIN, WEAK}
    assert user.pins(model="gpt-4o").metadata == {}
    assert user.pins(model="gpt-4o").settings == []


def test_with_the_metadata_aider_asks_no_network(user: User) -> None:
    """Window, provider, mode and price are there; what the user's own entry says besides is kept."""
    user.has_metadata(
        json.dumps({MAIN: {"max_input_tokens": 99, "max_output_tokens": 7, "mode": "completion"}})
    )
    pins = user.pins(model=MAIN, weak_model=WEAK)
    assert pins.metadata[WEAK] == {
        "litellm_provider": "ollama",
        "mode": "chat",
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "max_input_tokens": 8192,
        "max_output_tokens": 8192,
        "max_tokens": 8192,
    }
    main = pins.metadata[MAIN]
    assert (main["max_input_tokens"], main["max_output_tokens"], main["mode"]) == (
        8192,
        7,
        "completion",
    )


BROKEN = [
    "- name: [",
    "just text",
    "name: ollama_chat/main",
    "- edit_format: diff",
    "- 7",
    "7",
    "- name: x\n  extra_params: [num_ctx]",
    "- name: x\n  extra_params: text",
]


@pytest.mark.parametrize("text", BROKEN)
def test_settings_that_aider_could_not_read_stop_the_launch(user: User, text: str) -> None:
    """The sentence names the file: nothing of it may be lost in the merge."""
    user.has_settings(text)
    with pytest.raises(LaunchError, match=r"0\.yml cannot be read as model settings"):
        user.pins()


def test_settings_in_other_bytes_or_a_folder_in_their_place_stop_the_launch(tmp_path: Path) -> None:
    """What is no UTF-8, and what is no file."""
    path = tmp_path / "latin.yml"
    path.write_bytes(b"- name: \xff\n")
    for each in (path, tmp_path):
        with pytest.raises(LaunchError, match="cannot be read as model settings"):
            read_settings([str(each)])


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "[]"])
def test_empty_and_missing_files_are_no_error(user: User, text: str) -> None:
    """Aider names files that need not be there."""
    user.has_settings(text)
    user.settings.append(str(user.folder / "missing.yml"))
    user.metadata.append(str(user.folder / "missing.json"))
    assert user.pins().window_tokens == 8192


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"m": 7}', '{// JSON5\n"m": {}}', '{"m": {}']
)
def test_metadata_that_is_no_plain_json_is_left_to_aider(user: User, text: str) -> None:
    """Aider reads it as JSON5; ours comes after it."""
    user.has_metadata(text)
    user.has_metadata('{"n": {"mode": "chat"}}')
    assert read_metadata(user.metadata) == {"n": {"mode": "chat"}}


def test_both_files_are_written_and_the_users_own_are_not(user: User, tmp_path: Path) -> None:
    """What Aider reads is what was decided; the user's files are the same bytes as before."""
    user.has_settings(f"# mine\n- name:   {MAIN}\n  extra_params: {{temperature: 0.2}}\n")
    user.has_metadata('{ "x":{} }')
    before = {name: Path(name).read_bytes() for name in user.settings + user.metadata}
    folder = tmp_path / "session"
    folder.mkdir()
    pins = user.pins(4096)
    settings, metadata = write_pins(pins, folder)
    assert yaml.safe_load(settings.read_text(encoding="utf-8")) == list(pins.settings)
    assert json.loads(metadata.read_text(encoding="utf-8")) == dict(pins.metadata)
    assert {name: Path(name).read_bytes() for name in before} == before


def test_a_folder_that_cannot_be_written_stops_the_launch(user: User, tmp_path: Path) -> None:
    """Without the files the window is not fixed, and the error says so."""
    with pytest.raises(LaunchError, match=r"the window cannot be fixed: .*No such file"):
        write_pins(user.pins(), tmp_path / "missing")
