"""Where Ollama is looked for, and where nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from aider_guard.config import Config
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings, Variable
from aider_guard.launch.ollama_address import may_be_asked, ollama_address

UNKNOWN = Unavailable("not said yet")
HERE, BOX = "http://127.0.0.1:11434", "http://192.0.2.7:11434"


def says(base: str, source: str) -> AiderSettings:
    """Aider looks there, because of this."""
    variable = Variable("OLLAMA_API_BASE", source, base)
    return AiderSettings(git_root="/repo", ollama_api_base=base, addresses=(variable,))


@dataclass(frozen=True)
class Case:
    address: str
    is_asked: bool
    settings: AiderSettings | Unavailable = UNKNOWN
    config: Config = field(default_factory=Config)
    environment: dict[str, str] = field(default_factory=dict)


CASES = {
    "not set": Case(HERE, True),
    "the environment, before Aider spoke": Case(BOX, True, environment={"OLLAMA_API_BASE": BOX}),
    "the environment": Case(BOX, True, says(BOX, "the environment")),
    "Ollama's own variable, before Aider spoke": Case(
        BOX, True, environment={"OLLAMA_HOST": "192.0.2.7"}
    ),
    "Aider's variable before Ollama's": Case(
        BOX, True, environment={"OLLAMA_API_BASE": BOX, "OLLAMA_HOST": "192.0.2.8"}
    ),
    "what a server listens on": Case(
        "http://127.0.0.1:11500", True, environment={"OLLAMA_HOST": "0.0.0.0:11500"}
    ),
    "what Aider says before Ollama's variable": Case(
        HERE, True, says(HERE, "/repo/.env"), environment={"OLLAMA_HOST": "192.0.2.7"}
    ),
    "the repository's .env beside Ollama's variable": Case(
        BOX, False, says(BOX, "/repo/.env"), environment={"OLLAMA_HOST": "192.0.2.8"}
    ),
    "Ollama's cloud in Ollama's variable": Case(
        "https://ollama.com:443", False, environment={"OLLAMA_HOST": "ollama.com"}
    ),
    "the home's .env": Case(BOX, True, says(BOX, "/home/me/.env")),
    "the repository's .env": Case(BOX, False, says(BOX, "/repo/.env")),
    "the repository's conf": Case(BOX, False, says(BOX, "set-env in /repo/.aider.conf.yml")),
    "the repository names this machine": Case(HERE, True, says("0.0.0.0", "/repo/.env")),
    "the guard's own setting wins": Case(
        "http://box:11434", True, says(BOX, "/repo/.env"), Config(ollama="box")
    ),
    "Ollama's cloud, from any source": Case(
        "https://ollama.com:443", False, says("ollama.com", "the environment")
    ),
    "Ollama's cloud by the guard's setting": Case(
        "https://api.ollama.com:443", False, config=Config(ollama="https://api.ollama.com")
    ),
    "a host that only begins like it": Case(
        "https://ollama.com.example:443", True, config=Config(ollama="https://ollama.com.example")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_where_ollama_is_and_whether_it_is_asked(case: Case) -> None:
    """The user may name any machine, a repository only this one, and no source the cloud."""
    assert ollama_address(case.config, case.settings, case.environment) == case.address
    assert may_be_asked(case.config, case.settings, case.environment) is case.is_asked
