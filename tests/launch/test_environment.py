"""What makes a session local: keys, proxies and switches that hold after every ``.env``."""

from __future__ import annotations

import pytest

from aider_guard.config import Config
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.cloud_variables import CLOUD_KEYS
from aider_guard.launch.environment import INVALID_KEY, local_environment

HERE = "http://127.0.0.1:11434"
NOWHERE = "http://127.0.0.1:9"


def environment(
    settings: AiderSettings | None = None, *, ollama: str = HERE, **config: str
) -> dict[str, str]:
    made = local_environment(
        Config(**config),  # type: ignore[arg-type]  # settings that are texts
        settings or AiderSettings(),
        ollama,
        NOWHERE,
    )
    return dict(made.set)


def test_every_known_key_is_made_invalid() -> None:
    """Also one that is not set now: a program that Aider runs could read it from a file later."""
    variables = environment()
    keys = [name for name in CLOUD_KEYS if name not in ("GITHUB_COPILOT_TOKEN", "OLLAMA_API_KEY")]
    assert len(keys) > 50
    assert {variables[name] for name in keys} == {INVALID_KEY}


def test_copilots_token_is_taken_away_rather_than_made_invalid() -> None:
    """Aider asks GitHub before every request as long as the variable is there at all."""
    made = local_environment(Config(), AiderSettings(), HERE, NOWHERE)
    assert "GITHUB_COPILOT_TOKEN" in made.unset
    assert "GITHUB_COPILOT_TOKEN" not in made.set


def test_the_key_for_ollama_goes_to_ollama_only() -> None:
    """A server behind a proxy with passwords needs it, and Ollama's own cloud is refused by name."""
    assert "OLLAMA_API_KEY" not in environment()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_proxies_lead_nowhere_in_both_spellings(name: str) -> None:
    """Everything that honours them is refused at once."""
    variables = environment()
    assert variables[name] == variables[name.lower()] == NOWHERE


NEIGHBOURS = [
    (HERE, "localhost,127.0.0.1,::1"),
    ("http://localhost:1", "localhost,127.0.0.1,::1"),
    ("http://[::1]:1", "localhost,127.0.0.1,::1"),
    ("http://192.168.1.7:11434", "localhost,127.0.0.1,::1,192.168.1.7"),
    ("https://me:secret@box.lan/ollama", "localhost,127.0.0.1,::1,box.lan"),
]


@pytest.mark.parametrize(("ollama", "reachable"), NEIGHBOURS)
def test_only_this_machine_and_ollama_are_reached_directly(ollama: str, reachable: str) -> None:
    """Exceptions of the user's own would let others through; no password is in it."""
    variables = environment(ollama=ollama)
    assert variables["NO_PROXY"] == variables["no_proxy"] == reachable


def test_litellms_own_proxy_and_the_hub_are_switched_off() -> None:
    """The first would carry every request, the second is asked for encodings."""
    variables = environment()
    assert (variables["USE_LITELLM_PROXY"], variables["HF_HUB_OFFLINE"]) == ("False", "1")


def test_an_open_network_changes_nothing_but_an_address_that_was_asked_for() -> None:
    """Keys and proxies are as the user set them."""
    assert environment(network="open") == {}
    assert environment(network="open", ollama=HERE) == {}
    made = local_environment(Config(network="open", ollama="box"), AiderSettings(), HERE, NOWHERE)
    assert (made.set, made.unset) == ({"OLLAMA_API_BASE": HERE}, ())


def test_an_open_network_leads_past_the_users_proxy_to_this_machine() -> None:
    """The door is here, whatever the proxy is for; the user's own exceptions stay."""
    proxy = Variable("https_proxy", "the environment", "http://proxy.lan:3128")
    exceptions = Variable("no_proxy", "the environment", ".lan")
    variables = environment(AiderSettings(addresses=(proxy, exceptions)), network="open")
    assert variables == dict.fromkeys(("NO_PROXY", "no_proxy"), ".lan,localhost,127.0.0.1,::1")
    assert environment(AiderSettings(addresses=(exceptions,)), network="open") == {}


def test_an_address_for_the_guard_holds_against_every_file() -> None:
    """The user named it to the guard."""
    made = local_environment(Config(ollama="box"), AiderSettings(), "http://box:11434", NOWHERE)
    assert made.set["OLLAMA_API_BASE"] == "http://box:11434"


def role(model: str, api_base: str = "") -> Role:
    return Role("main", model, api_base=api_base)


SERVERS = [
    ((role("openai/m"),), "http://127.0.0.1:8080/v1", True),
    ((role("openai/m", "http://localhost:8080/v1"),), "", True),
    ((role("openai/m", "http://localhost:8080/v1"),), "https://cloud.example", True),
    ((role("openai/m"),), "https://cloud.example/v1", False),
    ((role("openai/m"),), "", False),
    ((role("openai/m", "http://localhost:1"), role("openai/n")), "", False),
    ((role("ollama_chat/m"),), "http://127.0.0.1:8080/v1", False),
    ((), "http://127.0.0.1:8080/v1", False),
]


@pytest.mark.parametrize(("roles", "base", "is_kept"), SERVERS)
def test_the_key_of_a_local_server_is_kept(
    roles: tuple[Role, ...], base: str, is_kept: bool
) -> None:
    """It speaks OpenAI's protocol on this machine, and every role that names it does."""
    addresses = (Variable("OPENAI_API_BASE", "the environment", base),) if base else ()
    variables = environment(AiderSettings(roles=roles, addresses=addresses))
    assert ("OPENAI_API_KEY" not in variables) is is_kept
