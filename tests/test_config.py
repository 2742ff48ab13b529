"""Where settings come from, which one wins, and the error for one that cannot be used."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.config import SETTINGS, Config, check, load, project_file
from aider_guard.core.egress import Place, SocketPath, places
from aider_guard.core.state import Limits
from aider_guard.errors import ConfigError


class Sources:
    """All the places that a setting can come from."""

    def __init__(self, folder: Path) -> None:
        self.flags: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.project = folder / ".aider-guard.toml"
        self.user = folder / "config.toml"

    def load(self) -> Config:
        return load(
            self.flags,
            environment=self.environment,
            project_file=self.project,
            user_file=self.user,
        )


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_without_any_source_the_defaults_hold(sources: Sources) -> None:
    """No flag, no variable, no file."""
    assert sources.load() == Config()
    assert load({}, environment={}) == Config()


def test_the_stronger_source_wins(sources: Sources) -> None:
    """Flags, variables, the project's file, the user's file, defaults: each one over those after it."""
    configs = []
    sources.user.write_text("max-turns = 4\n")
    configs.append(sources.load().max_turns)
    sources.project.write_text("max-turns = 3\n")
    configs.append(sources.load().max_turns)
    sources.environment["AIDER_GUARD_MAX_TURNS"] = "2"
    configs.append(sources.load().max_turns)
    sources.flags["max-turns"] = "1"
    configs.append(sources.load().max_turns)
    assert configs == [4, 3, 2, 1]


def test_sources_are_mixed_setting_by_setting(sources: Sources) -> None:
    """A source says only what it says."""
    sources.user.write_text('keep = 0.2\nwarn-at = 60\naider = "mine"\n')
    sources.project.write_text("warn-at = 70\nnum-ctx = 4096\n")
    sources.environment["AIDER_GUARD_NUM_CTX"] = "auto"
    sources.flags.update({"probe": "never", "warn-at": None})
    expected = Config(aider="mine", keep=0.2, warn_at=70, num_ctx=None, probe="never")
    assert sources.load() == expected


VALUES: list[tuple[str, str, Any, Any]] = [
    ("aider", " /opt/aider ", "/opt/aider", "/opt/aider"),
    ("ollama", "http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1"),
    ("warn-at", " 85 ", 85, 85),
    ("max-turns", "0", 0, 0),
    ("vram-warn-at", "100", 100, 100),
    ("num-ctx", "4096", 4096, 4096),
    ("num-ctx", "auto", "auto", None),
    ("probe", "always", "always", "always"),
    ("keep", "0.25", 0.25, 0.25),
    ("keep", "0", 0, 0.0),
    ("on-overflow", "warn", "warn", "warn"),
    ("ollama-log", "/var/log/ollama.log", "/var/log/ollama.log", "/var/log/ollama.log"),
    ("ollama-log", "auto", "auto", None),
]
PLACES = (Place("github.com", 22), Place("127.0.0.1", 5432))
SWITCHED: list[tuple[str, bool]] = [
    *(("true", True), ("True", True), ("1", True)),
    *(("false", False), ("0", False)),
]


def test_places_are_a_list_or_a_text_with_commas(sources: Sources) -> None:
    """A flag and a variable are texts; a file has a list. Each place is kept once, in its order."""
    text = "github.com:22, 127.0.0.1:5432,GitHub.com:22"
    configs = [
        load({"allow": text}, environment={}),
        load({}, environment={"AIDER_GUARD_ALLOW": text}),
    ]
    for lines in (f'allow = "{text}"\n', 'allow = ["github.com:22", "127.0.0.1:5432"]\n'):
        sources.user.write_text(lines)
        configs.append(sources.load())
    assert [each.allow for each in configs] == [PLACES] * 4


def test_sockets_are_allowed_by_their_paths(sources: Sources) -> None:
    """In the same list, below the home folder too."""
    sources.user.write_text('allow = ["/run/docker.sock", "~/.pm2/rpc.sock", "a:1"]\n')
    home = os.path.expanduser("~")
    expected = SocketPath("/run/docker.sock"), SocketPath(f"{home}/.pm2/rpc.sock"), Place("a", 1)
    assert sources.load().allow == expected


def test_a_list_of_places_replaces_the_weaker_one(sources: Sources) -> None:
    """As every setting does; an empty list lets nothing through."""
    sources.user.write_text('allow = ["github.com:22"]\n')
    sources.flags["allow"] = "a:1"
    assert sources.load().allow == (Place("a", 1),)
    del sources.flags["allow"]
    sources.project.write_text("allow = []\n")
    assert sources.load().allow == ()


@pytest.mark.parametrize(("text", "value"), SWITCHED)
def test_a_switch_is_true_or_false(sources: Sources, text: str, *, value: bool) -> None:
    """As a word everywhere, and as what it is in a file and from its flag, which takes no word."""
    sources.environment["AIDER_GUARD_REQUIRE_AIRGAP"] = text
    assert sources.load().require_airgap is value
    sources.environment.clear()
    sources.user.write_text(f"require-airgap = {str(value).lower()}\n")
    assert sources.load().require_airgap is value
    assert load({"require-airgap": value}, environment={}).require_airgap is value


def test_an_open_network_and_a_required_gap_exclude_each_other(sources: Sources) -> None:
    """From whichever sources they come, with one sentence."""
    sources.user.write_text("require-airgap = true\n")
    sources.flags["network"] = "open"
    with pytest.raises(ConfigError, match=r"^network is open and require-airgap is set: [^\n]*$"):
        sources.load()


@pytest.mark.parametrize(("name", "text", "toml", "value"), VALUES)
def test_a_setting_reads_the_same_from_everywhere(
    sources: Sources, name: str, text: str, toml: object, value: object
) -> None:
    """As a flag, as a variable, and in both files, where numbers are numbers; a repository's names no program."""
    variable = "AIDER_GUARD_" + name.upper().replace("-", "_")
    in_file = f'{name} = "{toml}"\n' if isinstance(toml, str) else f"{name} = {toml}\n"
    configs = [load({name: text}, environment={}), load({}, environment={variable: text})]
    files = [sources.user] if name == "aider" else [sources.project, sources.user]
    for path in files:
        path.write_text(in_file)
        configs.append(sources.load())
        path.unlink()
    read = [getattr(each, name.replace("-", "_")) for each in configs]
    assert read == [value] * (2 + len(files))


BAD: list[tuple[str, str]] = [
    ("aider", " "),
    ("ollama", ""),
    *(("warn-at", bad) for bad in ("9", "100", "80.5", "-80", "many", "80%", "²", "9" * 5000)),
    *(("max-turns", bad) for bad in ("-1", "100001", "1e3", "")),
    *(("vram-warn-at", bad) for bad in ("9", "101")),
    *(("num-ctx", bad) for bad in ("0", "511", "automatic", "8k", str(1 << 25), "9" * 5000)),
    *(("probe", bad) for bad in ("", "Auto", "sometimes", "true")),
    *(("on-overflow", bad) for bad in ("", "Refuse", "never")),
    *(("ollama-log", bad) for bad in ("", "ollama.log", "./x", "yes")),
    *(("allow", bad) for bad in ("", "github.com", "a:1,", "a:1,b", "*:22", "https://a:1")),
    *(("require-airgap", bad) for bad in ("", "yes", "2", "kernel")),
    *(("keep", bad) for bad in ("-0.1", "0.51", "10%", "nan", "inf", "-inf", "1e400")),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda part: part[:12])
def test_a_bad_flag_is_refused_in_one_sentence(name: str, value: str) -> None:
    """It names the flag, repeats the value, and says what is allowed."""
    with pytest.raises(ConfigError) as raised:
        load({name: value}, environment={})
    message = str(raised.value)
    assert message.startswith(f"the flag --{name} is {value!r}: it takes ")
    assert "\n" not in message
    assert "invalid literal" not in message
    assert raised.value.exit_code == 64


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, v in BAD if v], ids=lambda part: part[:12]
)
def test_a_bad_variable_is_refused_by_its_own_name(name: str, value: str) -> None:
    """The variable as it stands in the environment."""
    variable = "AIDER_GUARD_" + name.upper().replace("-", "_")
    with pytest.raises(ConfigError, match=rf"^the variable {variable} is .*: it takes "):
        load({}, environment={variable: value})


def test_an_empty_variable_is_none(sources: Sources) -> None:
    """As everywhere in a shell; and variables that are no settings are others' business."""
    sources.environment.update(
        {"AIDER_GUARD_WARN_AT": "", "AIDER_GUARD_STATE_DIR": "/s", "AIDER_GUARD_X": "1"}
    )
    assert sources.load() == Config()


BAD_TOML: list[tuple[str, str]] = [
    ("allow = 22", "allow"),
    ("allow = true", "allow"),
    ("allow = [22]", "allow"),
    ('allow = ["github.com"]', "allow"),
    ("require-airgap = 2", "require-airgap"),
    ("warn-at = true", "warn-at"),
    ("warn-at = 80.0", "warn-at"),
    ("warn-at = [80]", "warn-at"),
    ("num-ctx = false", "num-ctx"),
    ("keep = true", "keep"),
    ('keep = "much"', "keep"),
    ("keep = []", "keep"),
    ("probe = true", "probe"),
    ("aider = 7", "aider"),
    ("ollama-log = 7", "ollama-log"),
    ("on-overflow = true", "on-overflow"),
    ("[probe]\nwhen = 1", "probe"),
]


@pytest.mark.parametrize(("text", "name"), BAD_TOML)
def test_a_bad_value_in_a_file_is_refused_with_the_files_name(
    sources: Sources, text: str, name: str
) -> None:
    """Types that are none of ours, from either file."""
    for path in (sources.project, sources.user):
        path.write_text(text)
        with pytest.raises(ConfigError) as raised:
            sources.load()
        assert str(raised.value).startswith(f"{name} in {path} is ")
        path.unlink()


def test_a_switch_is_repeated_as_it_is_written_in_a_file(sources: Sources) -> None:
    """A file knows ``true``; only Python calls it True."""
    sources.user.write_text("read-ahead = true")
    with pytest.raises(ConfigError, match=r"is true: it takes auto, on or off$"):
        sources.load()


@pytest.mark.parametrize("name", ["warn_at", "Warn-At", "warn-a", "colour", "num-ctx ", "numctx"])
def test_an_unknown_setting_is_refused_with_what_was_meant(sources: Sources, name: str) -> None:
    """A misspelt name must not be ignored: the user would rely on it. Without a near one all are listed."""
    sources.user.write_text(f'"{name}" = 1\n')
    with pytest.raises(ConfigError) as raised:
        sources.load()
    message = str(raised.value)
    meant = "warn-at" if name.lower().startswith("w") else "num-ctx" if "n" in name else ""
    helps = f"did you mean {meant}?" if meant else f"the settings are {', '.join(SETTINGS)}"
    assert message == f"{name} in {sources.user} is not a setting; {helps}"


@pytest.mark.parametrize("name", ["WARNAT", "WARN_A", "Max_Turns", "MAXTURN", "STATE_DIRS"])
def test_a_misspelt_variable_is_refused(sources: Sources, name: str) -> None:
    """It would be without effect."""
    meant = {"W": "WARN_AT", "M": "MAX_TURNS", "S": "STATE_DIR"}[name[0]]
    sources.environment[f"AIDER_GUARD_{name}"] = "1"
    with pytest.raises(ConfigError) as raised:
        sources.load()
    said = f"the variable AIDER_GUARD_{name} is not one of the guard's; did you mean AIDER_GUARD_{meant}?"
    assert str(raised.value) == said


def test_a_variable_that_is_like_none_of_ours_is_let_be(sources: Sources) -> None:
    """It may be a script's own."""
    sources.environment["AIDER_GUARD_HOOK"] = "1"
    assert sources.load() == Config()


WRONG_SERVERS = ["notaurl:::x", "a b", "tcp://h:1", "h!", " "]


@pytest.mark.parametrize("address", WRONG_SERVERS)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before Aider starts, rather than by a failed connection."""
    with pytest.raises(ConfigError, match="it takes the address of a server"):
        load({"ollama": address}, environment={})


SERVERS = [
    "localhost",
    ":11434",
    "192.168.1.4:11434",
    "::1",
    "https://u:p@h.example/ollama/",
    "h/p",
]


@pytest.mark.parametrize("address", SERVERS)
def test_an_address_is_taken_as_ollama_takes_it(address: str) -> None:
    """Without scheme or port, too."""
    assert load({"ollama": address}, environment={}).ollama == address


UNREADABLE = [
    b"warn-at = ",
    b"warn-at 80",
    b"\xff\xfe",
    b"warn-at = 1\nwarn-at = 2",
    b"keep = " + b"9" * 5000,
]


@pytest.mark.parametrize("data", UNREADABLE, ids=lambda data: repr(data[:12]))
def test_a_file_that_cannot_be_read_is_named(sources: Sources, data: bytes) -> None:
    """Broken TOML, other bytes, a name twice."""
    sources.project.write_bytes(data)
    with pytest.raises(
        ConfigError, match=r"\.aider-guard\.toml cannot be read as settings: "
    ) as raised:
        sources.load()
    assert raised.value.exit_code == 64


def test_what_is_no_file_is_no_settings_file(sources: Sources) -> None:
    """A folder of that name, and nothing at all."""
    sources.user.mkdir()
    assert sources.load() == Config()
    assert load({}, environment={}, user_file=sources.user / "missing.toml") == Config()


@given(
    st.dictionaries(
        st.sampled_from(sorted(SETTINGS)), st.text(max_size=8) | st.integers() | st.floats()
    )
)
def test_any_flags_give_a_config_or_a_sentence(flags: dict[str, Any]) -> None:
    """What passes the checks is in its bounds, whatever it was."""
    config = Config()
    with suppress(ConfigError):
        config = load(flags, environment={})
    assert 10 <= config.warn_at <= 99
    assert 10 <= config.vram_warn_at <= 100
    assert 0 <= config.max_turns <= 100_000
    assert config.num_ctx is None or 512 <= config.num_ctx <= 1 << 24
    assert 0 <= config.keep <= 0.5
    assert config.probe in ("auto", "always", "never")
    assert config.on_overflow in ("refuse", "warn")
    assert config.ollama_log is None or config.ollama_log.startswith("/")
    assert all(1 <= place.port <= 65535 for place in places(config.allow))
    assert not (config.require_airgap and config.network == "open")


def test_the_home_folder_may_be_written_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell would read it."""
    monkeypatch.setenv("HOME", "/home/me")
    configs = load({"ollama-log": "~/.ollama/logs/server.log"}, environment={})
    assert configs.ollama_log == "/home/me/.ollama/logs/server.log"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_takes_its_own_default(name: str) -> None:
    """What config.py declares as the default is what the check makes of it as it is written."""
    default = SETTINGS[name].default
    if default not in ("", None):
        assert check(name, default) == default


def test_the_policy_has_the_same_defaults() -> None:
    """The core knows no settings: its own defaults are for tests and must not differ."""
    limits, config = Limits(), Config()
    assert (limits.warn_at_percent, limits.max_turns) == (config.warn_at, config.max_turns)
    assert (limits.vram_warn_at_percent, limits.probe) == (config.vram_warn_at, config.probe)


def test_the_projects_file_is_the_git_roots(tmp_path: Path) -> None:
    """Found from any folder below; a work tree's .git may be a file; outside of git there is none."""
    below = tmp_path / "repo" / "a" / "b"
    below.mkdir(parents=True)
    root = tmp_path / "repo"
    if project_file(tmp_path) is None:
        assert project_file(below) is None
    (root / ".git").write_text("gitdir: elsewhere\n")
    assert project_file(below) == project_file(root) == root / ".aider-guard.toml"
    (root / "a" / ".git").mkdir()
    assert project_file(below) == root / "a" / ".aider-guard.toml"


USERS_ALONE = [
    'allow = ["github.com:22"]',
    'allow = ["/run/docker.sock"]',
    "require-airgap = false",
    'network = "open"',
    'ollama = "http://192.0.2.7:11434"',
    'ollama = "ollama.com"',
    "keep-sessions = 0",
    'aider = "bin/aider"',
    'notify-command = "bin/ring"',
]


@pytest.mark.parametrize("line", USERS_ALONE)
def test_a_repository_cannot_send_code_away_or_remove_sessions(sources: Sources, line: str) -> None:
    """A cloned repository may be a stranger's; the user's own file may set it."""
    sources.user.write_text(line + "\n")
    sources.load()
    sources.project.write_text(line + "\n")
    with pytest.raises(ConfigError, match="a repository cannot decide that"):
        sources.load()


def test_a_repository_may_be_stricter_than_its_user(sources: Sources) -> None:
    """Offline, an air gap that must be enforced, and an Ollama of this machine, may stand anywhere."""
    sources.user.write_text('network = "open"\n')
    strict = 'network = "offline"\nrequire-airgap = true\nollama = "localhost:11500"\n'
    sources.project.write_text(strict)
    assert sources.load() == Config(
        network="offline", require_airgap=True, ollama="localhost:11500"
    )
