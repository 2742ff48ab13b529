"""No facts make the checks fail, and nothing that could not be read makes them stop a launch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from checks.worlds import FINE, QWEN
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.architecture import Architecture
from aider_guard.core.findings import IDS, SEVERITIES
from aider_guard.core.fit import Fit, Need
from aider_guard.core.readings import MemoryReading, ModelsReading, Unavailable
from aider_guard.core.server_report import (
    InstalledModel,
    ModelFacts,
    ModelMissing,
    ServerProcess,
    ServerReport,
)
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.facts import Facts, RepoFacts

WORDS = (
    *(
        "ollama_chat/",
        "ollama/",
        "qwen3:8b",
        ":cloud",
        "-cloud",
        "gpt-4o",
        "/",
        ":",
        "http://",
        "@",
    ),
    *("OLLAMA_API_BASE", "OPENAI_API_KEY", "HTTP_PROXY", "NO_PROXY", "USE_LITELLM_PROXY", "["),
    *("the key ", "AIDER_MODEL in ", "on the command line", "/repo/.env", "oauth-keys.env", "]"),
    *("127.0.0.1", "ollama.com", "192.168.1.5:99999999", "pytest", "%", "\x00", "\ud800", "é"),
)
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=4).map("".join)
integers = st.integers(-(2**70), 2**70) | st.integers(-2, 9000)
gone = st.builds(Unavailable, texts)
flags = st.booleans()


def several(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=3).map(tuple)


def mappings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = texts | st.sampled_from(
        ("OLLAMA_NUM_PARALLEL", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_FLASH_ATTENTION", "qwen3:8b")
    )
    return st.dictionaries(names, values, max_size=3)


roles = st.builds(
    Role,
    st.sampled_from(("main", "editor", "weak")) | texts,
    texts,
    asked=texts,
    source=texts,
    api_base=texts,
    num_ctx=st.none() | integers,
    settings_source=texts,
    redirects=several(texts),
)
variables = st.builds(Variable, texts, texts, texts)
aiders = st.builds(
    AiderSettings,
    version=texts,
    git_root=st.none() | texts,
    model=st.none() | texts,
    ollama_api_base=texts,
    problems=several(texts),
    roles=several(roles),
    keys=several(variables),
    addresses=several(variables),
    config_files=several(texts),
    env_files=several(texts),
    sources=mappings(texts),
    map_tokens=st.none() | integers,
    max_chat_history_tokens=st.none() | integers,
    restore_chat_history=flags,
    auto_test=flags,
    test_cmd=st.none() | texts,
    lint_cmd=several(texts),
    notifications=flags,
    notifications_command=st.none() | texts,
    cache_keepalive_pings=integers,
    analytics=st.none() | flags,
    verify_ssl=flags,
    load=st.none() | texts,
)
processes = st.builds(
    ServerProcess, integers, texts, texts, mappings(texts) | gone, texts, inferred=flags
)
architectures = st.just(QWEN) | st.builds(
    Architecture,
    name=texts,
    layers=integers,
    embedding_length=integers,
    heads=several(integers),
    kv_heads=several(integers),
    key_length=integers,
    value_length=integers,
    vocabulary=integers | gone,
    trained_tokens=integers | gone,
)
models = (
    st.builds(
        ModelFacts,
        texts,
        texts,
        integers | gone,
        integers | gone,
        architectures | gone,
        blob=texts,
        remote_host=texts,
    )
    | st.builds(ModelMissing, texts, several(texts))
    | gone
)
servers = st.builds(
    ServerReport,
    base=texts,
    is_local=flags,
    version=texts | gone,
    installed=several(st.builds(InstalledModel, texts, integers, texts, remote_host=texts)) | gone,
    loaded=st.just(ModelsReading((), 0.0)) | gone,
    cloud_disabled=flags | gone,
    process=processes | gone,
    models=mappings(models),
)
fits = st.builds(
    Fit,
    integers,
    several(st.builds(Need, texts, integers, integers, integers, integers)),
    integers,
    flags,
    flags,
    integers,
    integers,
)
_anything = st.builds(
    Facts,
    config=st.builds(Config, ollama=texts, num_ctx=st.none() | integers),
    settings=aiders | gone,
    server=servers | gone,
    memory=gone | st.builds(MemoryReading, gone | st.just(()), gone, st.just(0.0)),
    window_tokens=integers | gone,
    fit=fits | gone,
    repo=st.builds(RepoFacts, several(texts), texts),
    state_free_bytes=integers | gone,
    aider_script=texts,
    aider_problem=texts,
    environment=mappings(texts),
)


@st.composite
def anything(draw: st.DrawFn) -> Facts:
    """Any facts; a strategy with a name, as hypothesis writes one without out in full."""
    return draw(_anything)


@given(anything())
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_facts_are_too_strange(facts: Facts) -> None:
    """Whatever was read, the answer is findings with known ids, the worst first, each saying something."""
    findings = examine(facts)

    assert all(finding.id in IDS and finding.what for finding in findings)
    order = [SEVERITIES.index(finding.severity) for finding in findings]
    assert order == sorted(order)


@given(
    settings=st.booleans(),
    server=gone | st.just(FINE.server),
    rest=st.lists(st.sampled_from(("memory", "window_tokens", "fit", "state_free_bytes"))),
    reason=gone,
)
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_could_not_be_read_stops_nothing(
    settings: bool,  # hypothesis names it
    server: ServerReport | Unavailable,
    rest: list[str],
    reason: Unavailable,
) -> None:
    """With everything unreadable that can be, and nothing known that is wrong, no launch is forbidden."""
    if isinstance(server, ServerReport):
        unread = dict.fromkeys(
            ("version", "installed", "loaded", "cloud_disabled", "process"), reason
        )
        known = FINE.settings if settings else reason
        names = dict.fromkeys(("qwen3:8b",), reason)
        server = replace(server, **unread, models=names, is_local=True)  # type: ignore[arg-type]  # each may be absent
    else:
        known = FINE.settings if settings else reason
    facts = replace(FINE, settings=known, server=server, **dict.fromkeys(rest, reason))  # type: ignore[arg-type]  # each may be absent

    assert not [finding for finding in examine(facts) if finding.severity == "stop"]
