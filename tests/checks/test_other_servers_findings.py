"""What is found of models on other servers: which kind of server, the window, and what helps where it is too small."""

from __future__ import annotations

import pytest
from checks.worlds import finding_of, same, server, variable, world

from aider_guard.config import Config
from aider_guard.core.findings import Finding
from aider_guard.core.other_servers import NOT_TOLD, OtherModel
from aider_guard.launch.facts import Facts

BASE = "http://127.0.0.1:8080/v1"


def facts_with(found: OtherModel, num_ctx: int | None = None, base: str = BASE) -> Facts:
    """A session on one other server."""
    return world(
        *same("openai/m"),
        addresses=(variable("OPENAI_API_BASE", base),),
        server=server(others={"openai/m": found}),
        config=Config(num_ctx=num_ctx),
    )


def finding(
    found: OtherModel, num_ctx: int | None = None, identity: str = "local-server"
) -> Finding:
    """What is said of it."""
    return finding_of(facts_with(found, num_ctx), identity)


HERE = "openai/m runs on {} on this machine; "
TOLD = [
    (
        OtherModel("llama-swap", 6144, "unloaded", "m"),
        HERE.format("llama-swap")
        + "its window is 6,144 tokens, and it is loaded with the first message",
    ),
    (
        OtherModel("llama-swap", NOT_TOLD, "unloaded", "m"),
        HERE.format("llama-swap") + "its window is known once it is loaded",
    ),
    (
        OtherModel("llama.cpp's router", 8192, "sleeping", "m"),
        HERE.format("llama.cpp's router") + "its window is 8,192 tokens",
    ),
    (OtherModel("llama.cpp", 4096), HERE.format("llama.cpp") + "its window is 4,096 tokens"),
    (
        OtherModel("LM Studio", NOT_TOLD, "unloaded", "m", 32768),
        HERE.format("LM Studio")
        + "the guard has it loaded with a window of 8,192 tokens, or what --num-ctx says",
    ),
    (
        OtherModel("LM Studio", 12288, "loaded", "m", 32768),
        HERE.format("LM Studio") + "it is loaded with a window of 12,288 tokens",
    ),
    (OtherModel("", 40960), HERE.format("another server") + "its window is 40,960 tokens"),
]


@pytest.mark.parametrize(("found", "what"), TOLD)
def test_each_server_is_named_with_its_window(found: OtherModel, what: str) -> None:
    """Nothing is wrong."""
    said = finding(found)
    assert (said.severity, said.what) == ("info", what)


@pytest.mark.parametrize(
    ("tokens", "longest", "num_ctx", "severity"),
    [
        (4096, 32768, None, "warn"),
        (8192, 32768, None, "info"),
        (4096, 4096, None, "info"),
        (8192, 32768, 16384, "warn"),
        (16384, 32768, 16384, "info"),
    ],
)
def test_a_small_window_that_lm_studio_has_loaded_is_said(
    tokens: int, longest: int, num_ctx: int | None, severity: str
) -> None:
    """It was loaded by another program, which the guard leaves alone."""
    said = finding(OtherModel("LM Studio", tokens, "loaded", "m", longest), num_ctx)
    assert said.severity == severity
    assert said.fix.startswith("lms unload m   ") == (severity == "warn")


def test_a_model_of_a_peer_stops_the_session() -> None:
    """Its requests would leave the server that the user named."""
    found = OtherModel(
        "llama-swap", NOT_TOLD, "unloaded", "m", elsewhere="box, a peer of llama-swap"
    )
    said = finding(found, identity="cloud-model")
    assert (said.severity, said.evidence) == ("stop", BASE)
    assert "passed on to box, a peer of llama-swap" in said.what


@pytest.mark.parametrize(
    ("base", "fix"),
    [
        ("http://127.0.0.1:11434/v1", "aider-guard -- --model ollama_chat/m"),
        (
            "http://127.0.0.1:11500/v1",
            "OLLAMA_API_BASE=http://127.0.0.1:11500 aider-guard -- --model ollama_chat/m",
        ),
    ],
)
def test_ollamas_own_v1_is_better_asked_by_its_own_protocol(base: str, fix: str) -> None:
    """Where a window can be fixed; the advice is never a window for ``/v1``."""
    facts = facts_with(OtherModel("Ollama", 4096, "loaded", "m"), base=base)
    said = finding_of(facts, "ollama-openai")
    assert said.severity == "warn"
    assert "no window can be fixed; its window is 4,096 tokens" in said.what
    assert said.fix == fix
