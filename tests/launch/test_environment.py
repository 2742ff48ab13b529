"""What makes a session local: keys, proxies and switches that hold after every ``.env``."""

from __future__ import annotations

import pytest

from aider_guard.config import Config
from aider_guard.core.egress import Place
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.cloud_variables import CLOUD_BASES, CLOUD_KEYS
from aider_guard.launch.environment import INVALID_KEY, cloud_addresses, local_environment
from aider_guard.launch.routes import DoorAddress

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


DOOR = DoorAddress(4321, "t0ken")
CLOUD = "http://127.0.0.1:4321/t0ken/cloud/"


def addresses(
    users: dict[str, str] | None = None, *, config: Config | None = None, ollama: str = HERE
) -> dict[str, str]:
    """The variables for clouds in a session of a user who has set these."""
    variables = tuple(
        Variable(name, "the environment", value, value) for name, value in (users or {}).items()
    )
    settings = AiderSettings(addresses=variables)
    return cloud_addresses(config or Config(), settings, ollama, DOOR)


def test_every_provider_is_asked_at_the_door() -> None:
    """By the one variable that only litellm reads: the client of another program finds what it found before."""
    assert addresses() == {names[0]: f"{CLOUD}{host}:443" for host, names in CLOUD_BASES.items()}
    assert {"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"}.isdisjoint(addresses())


OF_USERS = [
    # A server of this machine: both variables stay, whichever of them is set.
    ({"OPENAI_API_BASE": "http://127.0.0.1:8080/v1"}, {}),
    ({"OPENAI_BASE_URL": "http://localhost:8080/v1"}, {}),
    ({"OPENAI_API_BASE": "localhost:8080"}, {}),
    # Another place: what was set there is said to be there, with its port.
    (
        {"OPENAI_API_BASE": "https://llm.example/v1"},
        {"OPENAI_API_BASE": "llm.example:443"},
    ),
    (
        {"OPENAI_BASE_URL": "http://llm.example:8000/v1?key=secret"},
        {"OPENAI_API_BASE": "llm.example:8000", "OPENAI_BASE_URL": "llm.example:8000"},
    ),
    ({"AZURE_API_BASE": "https://mine.openai.azure.com"}, {"AZURE_API_BASE": "mine.openai.azure.com:443"}),
    ({"LITELLM_PROXY_API_BASE": "http://[2001:db8::1]:4000"}, {"LITELLM_PROXY_API_BASE": "[2001:db8::1]:4000"}),
    ({"HOSTED_VLLM_API_BASE": "http://127.0.0.1:8000/v1"}, {}),
    # No address at all.
    ({"OPENAI_API_BASE": "http://"}, {}),
    ({"OPENAI_API_BASE": "http://not a host"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("users", "asked"), OF_USERS)
def test_an_address_of_the_users_own(users: dict[str, str], asked: dict[str, str]) -> None:
    """One on this machine is left alone; elsewhere it is the place that the door names."""
    names = {*CLOUD_BASES["api.openai.com"], *users}
    made = {name: value for name, value in addresses(users).items() if name in names}
    if "OPENAI_API_BASE" not in {*users, *asked} and "OPENAI_BASE_URL" not in users:
        assert made.pop("OPENAI_API_BASE") == f"{CLOUD}api.openai.com:443"
    assert made == {name: f"{CLOUD}{place}" for name, place in asked.items()}


def test_a_host_that_may_be_reached_is_left_alone() -> None:
    """What the user allows, and the machine that Ollama is on; all of it where the network is open."""
    allowed = Config(allow=(Place("api.openai.com", 443),))
    assert "OPENAI_API_BASE" not in addresses(config=allowed)
    assert "ANTHROPIC_API_BASE" in addresses(config=allowed)
    box = "http://box.lan:11434"
    assert "OPENAI_API_BASE" not in addresses(
        {"OPENAI_API_BASE": "http://box.lan:8000/v1"}, ollama=box
    )
    assert addresses(config=Config(network="open")) == {}
