"""The routes through the door: a prefix for each server of this machine, and none for another one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from aider_guard.core.chat.types import Upstream
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.places import addresses_in, redirect_entry
from aider_guard.launch.routes import DoorAddress, Routes, find_routes

OLLAMA = "http://127.0.0.1:11434"
CPP = "http://127.0.0.1:8080/v1"
MAIN = "ollama_chat/qwen3:8b"
Entry = dict[str, Any]


def variable(name: str, address: str) -> Variable:
    """A variable whose shown value lacks the path, as Aider's process tells it."""
    scheme, _, rest = address.partition("://")
    text = f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    return Variable(name, "the environment", text, address)


def role(model: str, address: str = "") -> Role:
    return Role("main", model, api_base=address.removesuffix("/v1"), address=address)


def entry(**extra: Any) -> Entry:
    return {"extra_params": extra}


@dataclass(frozen=True)
class Case:
    upstreams: tuple[Upstream, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str | None] = field(default_factory=dict)
    roles: tuple[Role, ...] = (role(MAIN),)
    addresses: tuple[Variable, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)


BOTH = {"OPENAI_API_BASE": "/openai", "OPENAI_BASE_URL": "/openai"}
CASES = {
    "Ollama alone": Case(
        prefixes={
            OLLAMA: "",
            f"{OLLAMA}/": "",
            "localhost": "",
            f"{OLLAMA}/v1": "/v1",
            CPP: None,
            "": None,
        }
    ),
    "a server of OpenAI's protocol": Case(
        (Upstream("openai", CPP, "openai"),),
        BOTH,
        {CPP: "/openai", "http://localhost:8080/v1/": "/openai"},
        (role("openai/m"),),
        (variable("OPENAI_API_BASE", CPP),),
    ),
    "one that no role uses, for /model": Case(
        (Upstream("openai", CPP, "openai"),),
        BOTH,
        addresses=(variable("OPENAI_API_BASE", CPP),),
    ),
    "of two variables the one that litellm takes": Case(
        (Upstream("openai", "http://127.0.0.1:1/v1", "openai"),),
        BOTH,
        addresses=(
            variable("OPENAI_API_BASE", CPP),
            variable("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
        ),
    ),
    "a cloud": Case(
        roles=(role("openai/m"),), addresses=(variable("OPENAI_API_BASE", "https://c.example/v1"),)
    ),
    "a server of the user's network": Case(
        (Upstream("openai", "http://192.168.1.7:8000/v1", "openai"),),
        BOTH,
        {"http://192.168.1.7:8000/v1": "/openai"},
        (role("openai/m"),),
        (variable("OPENAI_API_BASE", "http://192.168.1.7:8000/v1"),),
    ),
    "one of the user's network that the repository names": Case(
        roles=(role("openai/m"),),
        addresses=(
            replace(variable("OPENAI_API_BASE", "http://box/v1"), source=".env in /repo/.env"),
        ),
    ),
    "an Ollama of the user's network for one role": Case(
        (Upstream("ollama", "http://192.168.1.7:11434", "ollama"),),
        prefixes={"http://192.168.1.7:11434": "/ollama"},
        roles=(role(MAIN), role("ollama_chat/b", "http://192.168.1.7:11434")),
    ),
    "no address at all": Case(addresses=(variable("OPENAI_API_BASE", "127.0.0.1:8080"),)),
    "several servers": Case(
        (
            Upstream("hostedvllm", "http://127.0.0.1:8000/v1", "openai"),
            Upstream("lmstudio", "http://127.0.0.1:1234/v1", "openai"),
        ),
        {"HOSTED_VLLM_API_BASE": "/hostedvllm", "LM_STUDIO_API_BASE": "/lmstudio"},
        addresses=(
            variable("LM_STUDIO_API_BASE", "http://127.0.0.1:1234/v1"),
            variable("HOSTED_VLLM_API_BASE", "http://127.0.0.1:8000/v1"),
        ),
    ),
    "two names of one server": Case(
        (Upstream("openai", CPP, "openai"),),
        {**BOTH, "HOSTED_VLLM_API_BASE": "/openai"},
        addresses=(variable("OPENAI_API_BASE", CPP), variable("HOSTED_VLLM_API_BASE", CPP)),
    ),
    "a password in an address": Case(
        (Upstream("openai", "http://me:x@127.0.0.1:8080/v1", "openai"),),
        BOTH,
        addresses=(variable("OPENAI_API_BASE", "http://me:x@127.0.0.1:8080/v1"),),
    ),
    "Ollama's own /v1": Case(
        (),
        {"OPENAI_API_BASE": "/v1", "OPENAI_BASE_URL": "/v1"},
        {f"{OLLAMA}/v1": "/v1"},
        (role("openai/qwen3:8b"),),
        (variable("OPENAI_API_BASE", "http://localhost:11434/v1"),),
    ),
    "where llamafile is without being told": Case(
        (Upstream("llamafile", CPP, "openai"),),
        {"LLAMAFILE_API_BASE": "/llamafile"},
        roles=(role("llamafile/m"),),
    ),
    "a role's own address": Case(
        (Upstream("openai", CPP, "openai"),), {}, {CPP: "/openai"}, (role("openai/m", CPP),)
    ),
    "another Ollama for one role": Case(
        (Upstream("ollama", "http://127.0.0.1:11500", "ollama"),),
        roles=(role(MAIN), role("ollama_chat/small", "http://127.0.0.1:11500")),
    ),
    "the same Ollama for one role": Case(
        roles=(role(MAIN, "http://localhost:11434"),), prefixes={"http://localhost:11434": ""}
    ),
    "an entry for later": Case(
        (Upstream("openai", CPP, "openai"),), entries={"openai/later": entry(api_base=CPP)}
    ),
    "an entry for every model, by the main model": Case(
        (Upstream("ollama", "http://127.0.0.1:11500", "ollama"),),
        entries={"aider/extra_params": entry(base_url="http://127.0.0.1:11500")},
    ),
    "an entry with an address elsewhere": Case(
        entries={"openai/x": entry(api_base="https://c.example"), "y": {"extra_params": None}}
    ),
    "several entries": Case(
        (
            Upstream("openai", CPP, "openai"),
            Upstream("openai-2", "http://127.0.0.1:1", "openai"),
            Upstream("openai-3", "http://127.0.0.1:2", "openai"),
        ),
        entries={
            "openai/a": entry(api_base=CPP),
            "openai/b": entry(base_url="http://127.0.0.1:1", api_base="http://127.0.0.1:2"),
        },
    ),
    "a provider named as a path of Ollama's": Case(
        (Upstream("server", CPP, "openai"),), entries={"api/x": entry(api_base=CPP)}
    ),
    "a provider named as the clouds' part of the door": Case(
        (Upstream("server", CPP, "openai"),), entries={"cloud/x": entry(api_base=CPP)}
    ),
}


def routes(case: Case) -> Routes:
    settings = AiderSettings(git_root="/repo", roles=case.roles, addresses=case.addresses)
    return find_routes(settings, OLLAMA, case.entries)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_prefixes_of_the_servers_of_this_machine(case: Case) -> None:
    """Ollama first, then each other server once; variables get their prefixes, other machines none."""
    routing = routes(case)
    assert routing.upstreams == (Upstream("", OLLAMA, "ollama"), *case.upstreams)
    assert routing.variables == case.variables
    assert {address: routing.prefix(address) for address in case.prefixes} == case.prefixes


def test_an_entry_gets_the_doors_address_and_keeps_the_rest() -> None:
    """Only addresses that the door leads to are replaced, and the entry that was read is as before."""
    before = {"name": "m", "lazy": True, **entry(api_base=CPP, base_url="http://x", top_k=1)}
    after = redirect_entry(before, {CPP: "http://127.0.0.1:7/t/openai"})
    assert after == {
        "name": "m",
        "lazy": True,
        **entry(api_base="http://127.0.0.1:7/t/openai", base_url="http://x", top_k=1),
    }
    assert addresses_in(before) == ("http://x", CPP)
    plain = {"name": "m", "extra_params": None}
    assert redirect_entry(plain, {CPP: "x"}) == plain


def test_the_address_of_the_door_does_not_show_its_token() -> None:
    """Not in a traceback, not in a log: only where it is asked for."""
    door = DoorAddress(43210, "secret")
    assert "secret" not in repr(door)
    assert door.url("/openai") == "http://127.0.0.1:43210/secret/openai"
    assert DoorAddress(0, "TOKEN").url() == "http://127.0.0.1:PORT/TOKEN"


def test_no_address_with_a_password_shows_in_the_settings() -> None:
    """The complete address of a variable or a role is kept out of what is printed of them."""
    secret = "http://me:hunter2@127.0.0.1:8080/v1"
    aider_settings = AiderSettings(
        ollama_api_base=secret,
        roles=(Role("main", "openai/m", address=secret),),
        addresses=(variable("OPENAI_API_BASE", secret),),
    )
    assert "hunter2" not in repr(aider_settings)


def test_each_server_has_the_headers_that_aider_sends_there() -> None:
    """Those of its models, the main one first; a key is for no other server."""
    second, third = "http://127.0.0.1:11500", "http://127.0.0.1:11600"
    roles = (
        replace(role("openai/m", CPP), headers=(("Authorization", "Bearer other"),)),
        replace(role("ollama_chat/a"), headers=(("Authorization", "Bearer key"), ("X-A", "1"))),
        replace(role("ollama_chat/b"), headers=(("authorization", "Bearer 2"), ("X-B", "2"))),
        replace(role("ollama_chat/c", second), headers=(("X-C", "3"),)),
    )
    more = {"X-D": "4", "Authorization": "Basic x"}
    entries = {"ollama/d": entry(api_base=third, api_key="no", extra_headers=more)}
    upstreams = find_routes(AiderSettings(roles=roles), OLLAMA, entries).upstreams
    headers = {upstream.base: upstream.headers for upstream in upstreams}
    assert headers == {
        OLLAMA: (("Authorization", "Bearer key"), ("X-A", "1"), ("X-B", "2")),
        CPP: (("Authorization", "Bearer other"),),
        second: (("X-C", "3"),),
        third: (("X-D", "4"), ("Authorization", "Basic x")),
    }
    assert "key" not in repr(upstreams)
