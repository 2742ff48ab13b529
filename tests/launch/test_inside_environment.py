"""The environment in Aider's process: what is reported of it, and how its values are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.launch import cloud_variables
from aider_guard.launch.inside.environment import (
    Origins,
    addresses_set,
    force_variables,
    keys_set,
    restore_environment,
    shown_address,
)
from aider_guard.launch.inside.roles import role_headers


@pytest.fixture(autouse=True)
def only_this_environment() -> Iterator[None]:
    """Nothing of the machine's is seen, and nothing of the tests' stays."""
    kind = type(os.environ)
    with restore_environment():
        for name in [
            *cloud_variables.CLOUD_KEYS,
            *cloud_variables.SHARED_CREDENTIALS,
            *cloud_variables.CLOUD_ADDRESSES,
        ]:
            os.environ.pop(name, None)
        for name in [*cloud_variables.PROXIES, *cloud_variables.OLLAMA_ADDRESSES]:
            os.environ.pop(name, None)
        yield
    os.environ.__class__ = kind


ADDRESSES = [
    ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
    ("http://me:word@host:1/path/secret?key=secret#secret", "http://host:1"),
    ("me:word@proxy:3128", "proxy:3128"),
    ("https://host?key=secret", "https://host"),
    ("http://me:p@ss@host", "http://host"),
    (" host ", "host"),
    ("", ""),
    ("http://", "http://"),
    ("http://[::1]:11434/api", "http://[::1]:11434"),
    ("http://[::1]", "http://[::1]"),
    ("http://me:wo/rd@host", "http://me"),
    ("http://cloud.example/@127.0.0.1", "http://cloud.example"),
    ("http://me:word@host://x", "http://host"),
]


@pytest.mark.parametrize(("text", "shown"), ADDRESSES)
def test_an_address_is_shown_without_what_could_be_secret(text: str, shown: str) -> None:
    """Scheme, host and port only."""
    assert shown_address(text) == shown


@given(st.text(alphabet="abc/?#:@ ", max_size=30), st.text(alphabet="/?#", min_size=1, max_size=1))
def test_no_secret_of_an_address_is_shown(host: str, separator: str) -> None:
    """Whatever the rest looks like: neither before the host nor after it."""
    assert "SECRET" not in shown_address(f"http://SECRET:SECRET@{host.replace('@', '')}")
    assert "SECRET" not in shown_address(f"http://host{separator}{host}SECRET")


def test_keys_and_addresses_are_reported_with_their_source() -> None:
    """Names only for keys; addresses as they may be shown; what is empty is not set."""
    os.environ.update(
        OPENAI_API_KEY="secret",
        GROQ_API_KEY="",
        ODD_API_KEY="secret",
        HTTPS_PROXY="http://a:b@proxy:1/x",
        NO_PROXY="a/b,@c",
        OLLAMA_API_BASE="http://box:1",
    )
    origins = Origins()
    origins.note("OPENAI_API_KEY", "an older file")
    origins.note("OPENAI_API_KEY", "/repo/.env")
    origins.note("ODD_API_KEY", "--api-key on the command line")
    assert keys_set(origins) == [{"name": "OPENAI_API_KEY", "source": "/repo/.env"}]
    origins.by_flag.append("ODD_API_KEY")
    assert keys_set(origins)[1:] == [
        {"name": "ODD_API_KEY", "source": "--api-key on the command line"}
    ]
    assert [(variable["name"], variable["value"]) for variable in addresses_set(origins)] == [
        ("OLLAMA_API_BASE", "http://box:1"),
        ("HTTPS_PROXY", "http://proxy:1"),
        ("NO_PROXY", "a/b,@c"),
    ]


def test_a_servers_address_is_described_completely_beside_its_short_form() -> None:
    """The door has to find the server; a proxy and Ollama are not found that way."""
    os.environ.update(OPENAI_API_BASE="http://me:x@127.0.0.1:1/v1", HTTPS_PROXY="http://a:b@p:1/x")
    addresses = {
        variable["name"]: (variable["value"], variable["address"])
        for variable in addresses_set(Origins())
    }
    assert addresses == {
        "OPENAI_API_BASE": ("http://127.0.0.1:1", "http://me:x@127.0.0.1:1/v1"),
        "HTTPS_PROXY": ("http://p:1", ""),
    }


def test_the_environment_is_held_against_every_way_of_assigning() -> None:
    """Through update, setdefault and the operator, for this process and for those it starts."""
    os.environ.update(REFUSED="before", FREE="before")
    reference = os.environ  # as configargparse keeps one
    force_variables(os.environ, {"HELD": "ours"}, ["REFUSED"])
    os.environ["HELD"] = "theirs"
    os.environ.update(HELD="theirs", REFUSED="theirs", FREE="theirs")
    os.environ |= {"HELD": "theirs", "REFUSED": "theirs"}
    os.environ.setdefault("REFUSED", "theirs")
    assert (reference["HELD"], reference["FREE"], "REFUSED" in reference) == (
        "ours",
        "theirs",
        False,
    )
    code = "import os; print([os.environ.get(n) for n in ('HELD', 'FREE', 'REFUSED')])"
    started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert started.stdout.strip() == "['ours', 'theirs', None]"


def test_a_held_environment_can_be_read_copied_and_cleared() -> None:
    """All that a program does with it besides."""
    force_variables(os.environ, {"HELD": "ours"}, [])
    assert dict(os.environ)["HELD"] == os.environ.copy()["HELD"] == os.environ.get("HELD") == "ours"
    assert (os.environ | {"HELD": "theirs"})["HELD"] == "theirs"
    del os.environ["HELD"]
    assert "HELD" not in os.environ
    with pytest.raises(TypeError):
        os.environ["FREE"] = 1  # type: ignore[assignment]  # as it always was


def test_the_lists_name_each_variable_once() -> None:
    """No variable is of two kinds: what is done to keys is not done to addresses."""
    names = [
        *cloud_variables.CLOUD_KEYS,
        *cloud_variables.SHARED_CREDENTIALS,
        *cloud_variables.OLLAMA_ADDRESSES,
        *cloud_variables.CLOUD_ADDRESSES,
        *cloud_variables.PROXIES,
    ]
    assert len(names) == len(set(names))
    assert all(name in names for name in cloud_variables.AS_THEY_ARE)


@pytest.mark.parametrize(
    ("provider", "extra", "headers"),
    [
        ("ollama_chat", {}, [["Authorization", "Bearer from-environment"]]),
        ("ollama", {"api_key": "own"}, [["Authorization", "Bearer own"]]),
        (
            "ollama_chat",
            {"extra_headers": {"X-A": 1, "authorization": "Basic x"}},
            [["X-A", "1"], ["authorization", "Basic x"]],
        ),
        (
            "ollama_chat",
            {"extra_headers": "X-A: 1"},
            [["Authorization", "Bearer from-environment"]],
        ),
        ("openai", {}, []),
        ("gemini", {}, []),
        ("", {}, []),
    ],
)
def test_the_key_and_headers_of_a_role_are_told(
    monkeypatch: pytest.MonkeyPatch, provider: str, extra: dict[str, Any], headers: list[list[str]]
) -> None:
    """As litellm sends them. The keys of clouds stay where they are."""
    monkeypatch.setenv("OLLAMA_API_KEY", "from-environment")
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert role_headers(provider, extra) == headers
