"""Every way by which a local Aider reaches a cloud is visible in what Aider says of itself before it starts.

The numbers are those of the ways by which code could leave: a folder, a home and an environment set up that way,
and the field that shows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.launch.aider import Aider, find_aider
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.gathering import AiderQuestion

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig

LOCAL = "ollama_chat/small"
SECRET = "sk-a-secret-that-must-stay"  # no real key


@dataclass(frozen=True)
class Setup:
    """Files by their place (``~/…``, ``./…``, ``sub/…`` of the repository), variables and arguments."""

    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("--model", LOCAL)


Shows = Callable[[AiderSettings, Path], bool]


def role(settings: AiderSettings, name: str) -> Role:
    (found,) = (role for role in settings.roles if role.role == name)
    return found


def key(name: str, source: str) -> Shows:
    def shows(settings: AiderSettings, repo: Path) -> bool:
        return Variable(name, source.format(repo=repo)) in settings.keys

    return shows


def address(name: str, source: str, value: str) -> Shows:
    def shows(settings: AiderSettings, repo: Path) -> bool:
        shown = [replace(one, address="") for one in settings.addresses]
        return Variable(name, source.format(repo=repo), value) in shown

    return shows


def model(of: str, name: str, source: str) -> Shows:
    def shows(settings: AiderSettings, repo: Path) -> bool:
        found = role(settings, of)
        return (found.model, found.source) == (name, source.format(repo=repo))

    return shows


ENTRY = f"- name: {LOCAL}\n  edit_format: diff\n"
ENVIRONMENT = "the environment"
PATHS: list[tuple[str, Setup, Shows]] = [
    (
        "1 a key and no model",
        Setup({"./.env": f"OPENAI_API_KEY={SECRET}\n"}, arguments=()),
        model("main", "gpt-4o", "the key OPENAI_API_KEY in {repo}/.env"),
    ),
    (
        "1 the key of the environment",
        Setup(environment={"GEMINI_API_KEY": SECRET}, arguments=()),
        model(
            "main", "gemini/gemini-2.5-pro-exp-03-25", "the key GEMINI_API_KEY in the environment"
        ),
    ),
    (
        "1 OpenRouter's key, whose model is asked for on the net",
        Setup(environment={"OPENROUTER_API_KEY": SECRET}, arguments=()),
        model("main", "openrouter/…", "the key OPENROUTER_API_KEY in the environment"),
    ),
    (
        "2 AIDER_MODEL in a .env beats the configuration and the environment",
        Setup(
            {"./.env": "AIDER_MODEL=gpt-4o\n", "./.aider.conf.yml": f"model: {LOCAL}\n"},
            {"AIDER_MODEL": LOCAL},
            (),
        ),
        model("main", "gpt-4o", "AIDER_MODEL in {repo}/.env"),
    ),
    (
        "3 the weak model in the configuration",
        Setup({"./.aider.conf.yml": "weak-model: gpt-4o-mini\n"}),
        model("weak", "gpt-4o-mini", "{repo}/.aider.conf.yml"),
    ),
    (
        "3 the editor model in a .env",
        Setup({"./.env": "AIDER_EDITOR_MODEL=o1-mini\n"}),
        model("editor", "o1-mini", "AIDER_EDITOR_MODEL in {repo}/.env"),
    ),
    (
        "4 the weak model of a settings file",
        Setup({"./.aider.model.settings.yml": f"{ENTRY}  weak_model_name: gpt-4o-mini\n"}),
        model("weak", "gpt-4o-mini", "weak_model_name in {repo}/.aider.model.settings.yml"),
    ),
    (
        "4 the editor model of a settings file",
        Setup({"./.aider.model.settings.yml": f"{ENTRY}  editor_model_name: gpt-4o\n"}),
        model("editor", "gpt-4o", "editor_model_name in {repo}/.aider.model.settings.yml"),
    ),
    (
        "4 an address in a settings file",
        Setup(
            {
                "./.aider.model.settings.yml": f"{ENTRY}  extra_params:\n"
                f"    api_base: https://me:{SECRET}@cloud.example:8443/{SECRET}\n"
            }
        ),
        lambda settings, repo: (
            (role(settings, "main").api_base, role(settings, "main").settings_source)
            == ("https://cloud.example:8443", f"{repo}/.aider.model.settings.yml")
        ),
    ),
    (
        "4 an address for every model",
        Setup(
            {
                "./.aider.model.settings.yml": "- name: aider/extra_params\n  extra_params:\n"
                "    base_url: https://cloud.example\n    num_ctx: 4096\n"
            }
        ),
        lambda settings, repo: all(
            (one.api_base, one.num_ctx, one.settings_source)
            == ("https://cloud.example", 4096, f"{repo}/.aider.model.settings.yml")
            for one in settings.roles
        ),
    ),
    (
        "4 another model in the extra parameters",
        Setup(
            {
                "./.aider.model.settings.yml": f"{ENTRY}  extra_params:\n"
                f"    fallbacks: [gpt-4o, {{model: o1, api_key: {SECRET}}}]\n"
            }
        ),
        lambda settings, _: role(settings, "main").redirects == ("fallbacks: gpt-4o", "fallbacks: o1"),
    ),
    (
        "5 an alias for a local name",
        Setup({"./.aider.conf.yml": f"alias:\n  - '{LOCAL}:gpt-4o'\n"}),
        lambda settings, repo: (
            (role(settings, "main").model, role(settings, "main").asked, role(settings, "main").source)
            == (
                "gpt-4o",
                LOCAL,
                f"--model on the command line, an alias in {repo}/.aider.conf.yml",
            )
        ),
    ),
    (
        "6 /model in the session needs a key",
        Setup({"~/.env": f"ANTHROPIC_API_KEY={SECRET}\n"}),
        lambda settings, _: any(
            one.name == "ANTHROPIC_API_KEY" and one.source.endswith("/home/.env")
            for one in settings.keys
        ),
    ),
    (
        "6 /model in a file of commands",
        Setup({"./.aider.conf.yml": "load: commands\n"}),
        lambda settings, repo: (
            (settings.load, settings.sources["load"]) == ("commands", f"{repo}/.aider.conf.yml")
        ),
    ),
    (
        "7 a model of Ollama's cloud",
        Setup(arguments=("--model", "ollama_chat/gpt-oss:120b-cloud")),
        model("main", "ollama_chat/gpt-oss:120b-cloud", "--model on the command line"),
    ),
    (
        "8 an Ollama elsewhere",
        Setup({"./.env": f"OLLAMA_API_BASE=https://me:{SECRET}@ollama.com/v1\n"}),
        address("OLLAMA_API_BASE", "{repo}/.env", "https://ollama.com"),
    ),
    (
        "9 a proxy",
        Setup(environment={"HTTP_PROXY": f"http://me:{SECRET}@proxy:3128", "no_proxy": "a,b"}),
        lambda settings, repo: (
            address("HTTP_PROXY", ENVIRONMENT, "http://proxy:3128")(settings, repo)
            and address("no_proxy", ENVIRONMENT, "a,b")(settings, repo)
        ),
    ),
    (
        "10 litellm's proxy",
        Setup(
            {
                "./.aider.conf.yml": "set-env:\n  - USE_LITELLM_PROXY=True\n"
                "  - LITELLM_PROXY_API_BASE=https://proxy.example\n"
            }
        ),
        lambda settings, repo: (
            address("USE_LITELLM_PROXY", "set-env in {repo}/.aider.conf.yml", "True")(settings, repo)
            and address(
                "LITELLM_PROXY_API_BASE",
                "set-env in {repo}/.aider.conf.yml",
                "https://proxy.example",
            )(settings, repo)
        ),
    ),
    (
        "11 GitHub Copilot's token",
        Setup(environment={"GITHUB_COPILOT_TOKEN": SECRET}),
        key("GITHUB_COPILOT_TOKEN", ENVIRONMENT),
    ),
    (
        "12 OpenRouter's key from its login",
        Setup({"~/.aider/oauth-keys.env": f"OPENROUTER_API_KEY={SECRET}\n"}),
        lambda settings, _: any(
            one.name == "OPENROUTER_API_KEY" and one.source.endswith("/.aider/oauth-keys.env")
            for one in settings.keys
        ),
    ),
    ("12 OpenRouter's login, for want of a model", Setup(arguments=()), lambda settings, _: settings.roles == ()),
    (
        "13 /voice needs OpenAI's key",
        Setup(arguments=("--model", LOCAL, "--openai-api-key", SECRET)),
        key("OPENAI_API_KEY", "--openai-api-key on the command line"),
    ),
    (
        "13 a key by its provider",
        Setup({"./.aider.conf.yml": f"api-key:\n  - whoever={SECRET}\n"}),
        key("WHOEVER_API_KEY", "api-key in {repo}/.aider.conf.yml"),
    ),
    ("14 addresses in messages", Setup(), lambda settings, _: settings.detect_urls),
    (
        "15 an old flag",
        Setup(arguments=("--4o",)),
        model("main", "gpt-4o", "--4o on the command line"),
    ),
    (
        "15 an old flag in the configuration",
        Setup({"./.aider.conf.yml": "haiku: true\n"}, arguments=()),
        model("main", "claude-3-5-haiku-20241022", "haiku in {repo}/.aider.conf.yml"),
    ),
    (
        "16 the weak model writes commit messages and summaries, and the main one when it fails",
        Setup(arguments=("--model", "gpt-4o", "--weak-model", LOCAL)),
        lambda settings, _: (
            [one.model for one in settings.roles if one.role != "editor"] == ["gpt-4o", LOCAL]
        ),
    ),
    (
        "16 a cloud model brings its own weak and editor models",
        Setup(arguments=("--model", "gpt-4o")),
        model("weak", "gpt-4o-mini", "Aider's settings for gpt-4o"),
    ),
    (
        "17 pings that keep a cache alive",
        Setup(environment={"AIDER_CACHE_KEEPALIVE_PINGS": "3"}),
        lambda settings, _: (
            (settings.cache_keepalive_pings, settings.sources["cache_keepalive_pings"])
            == (3, "AIDER_CACHE_KEEPALIVE_PINGS in the environment")
        ),
    ),
    (
        "18 commands of the user's",
        Setup(
            {
                "./.aider.conf.yml": "test-cmd: curl example.org\nauto-test: true\n"
                "lint-cmd:\n  - 'python: lint'\n"
            }
        ),
        lambda settings, repo: (
            (settings.test_cmd, settings.auto_test, settings.lint_cmd)
            == ("curl example.org", True, ("python: lint",))
            and settings.sources["test_cmd"] == f"{repo}/.aider.conf.yml"
        ),
    ),
]  # fmt: skip


@pytest.fixture
def aider(rig: Rig) -> Aider:
    """The real Aider."""
    return find_aider(str(rig.aider_command))


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """An empty repository, beside a home that is empty as well."""
    for folder in ("home/.aider", "repo/.git/objects", "repo/.git/refs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "repo/.git/HEAD").write_text("ref: refs/heads/main\n")
    return tmp_path / "repo"


def describe(
    aider: Aider, repo: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> AiderSettings:
    home = repo.parent / "home"
    for name, text in setup.files.items():
        start, _, rest = name.partition("/")
        ((home if start == "~" else repo) / rest).write_text(text)
    monkeypatch.chdir(repo)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **setup.environment}
    with AiderQuestion(aider, setup.arguments, environment) as question:
        settings = question.result()
    assert isinstance(settings, AiderSettings), settings
    return settings


@pytest.mark.parametrize(("what", "setup", "shows"), PATHS, ids=[path[0] for path in PATHS])
def test_the_path_is_visible(
    aider: Aider,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    setup: Setup,
    shows: Shows,
) -> None:
    """The role, key, address or option is there with its source, nothing is taken for a fault, and no secret is."""
    settings = describe(aider, repo, setup, monkeypatch)
    assert shows(settings, repo), (what, settings)
    assert settings.problems == ()
    # One address is for connecting, not for showing: Ollama's own, with whatever a user's server wants.
    assert SECRET not in repr(replace(settings, ollama_api_base=""))


def test_an_empty_folder_shows_nothing(
    aider: Aider, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows the paths is not there without them."""
    settings = describe(aider, repo, Setup(), monkeypatch)
    assert {one.model for one in settings.roles} == {LOCAL}
    assert (settings.keys, settings.addresses) == ((), ())
    assert settings.sources == {"model": "--model on the command line"}
    assert (settings.config_files, settings.env_files, settings.problems) == ((), (), ())
