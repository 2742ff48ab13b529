"""What other servers tell of their models, read from answers as they document and give them, and the words for them."""

from __future__ import annotations

from typing import Any

import pytest

from aider_guard.core.other_servers import (
    NOT_TOLD,
    OtherModel,
    ServerName,
    find_entry,
    is_ollamas_version,
    larger_window,
    listed_model,
    older_studio_model,
    ollamas_model,
    pinned_target,
    planned_window,
    running_command,
    selected_targets,
    studio_model,
    window_in_command,
    window_to_load,
)
from aider_guard.core.readings import Unavailable

ARGS = ["llama-server", "--host", "127.0.0.1", "--ctx-size", "8192", "--port", "41000"]
ROUTED = {
    "id": "q",
    "owned_by": "llamacpp",
    "aliases": ["qwen"],
    "status": {"value": "unloaded", "args": ARGS},
}
SWAPPED = {
    "id": "small",
    "owned_by": "llama-swap",
    "meta": {"llamaswap": {"type": "model", "aliases": ["tiny"]}},
    "status": {"value": "loaded"},
}
PEER = {
    "id": "cloudy/far",
    "owned_by": "llama-swap",
    "meta": {"llamaswap": {"peerID": "cloudy", "type": "peer"}},
    "status": {"value": "unloaded"},
}


COMMANDS = [
    ("llama-server -m x -c 4096", 4096),
    ("llama-server --ctx-size 16384 -np 2", 8192),
    ("llama-server --ctx-size 16384 --parallel 2 --kv-unified", 16384),
    ("llama-server --ctx-size=16384 -np 0", 16384),
    ("llama-server -c 4096 --ctx-size 8192", 8192),
    ("vllm serve m --max-model-len 32768", 32768),
    ("llama-server -m x", None),
    ("llama-server -c", None),
    ("llama-server -c auto", None),
]


@pytest.mark.parametrize(("command", "window"), COMMANDS)
def test_the_window_in_a_command_line(command: str, window: int | None) -> None:
    """The last option counts, and slots share it unless the cache is common."""
    assert window_in_command(command.split()) == window


@pytest.mark.parametrize(
    ("status", "state", "loads", "counts"),
    [
        ("unloaded", "unloaded", True, False),
        ("loading", "loading", True, False),
        ("loaded", "loaded", False, True),
        ("sleeping", "sleeping", False, False),
        ("downloading", "loading", True, False),
    ],
)
def test_the_router_tells_the_window_of_a_model_that_is_not_loaded(
    status: str, state: str, loads: bool, counts: bool
) -> None:
    """By its command line. One that sleeps is there, and is not waked to be counted."""
    entry = {**ROUTED, "status": {"value": status, "args": ARGS}}
    found = listed_model(entry)
    assert (found.server, found.window_tokens, found.state) == ("llama.cpp's router", 8192, state)
    assert (found.loads_first, found.counts) == (loads, counts)


def test_a_router_without_a_window_leaves_it_open() -> None:
    """llama.cpp then chooses one by itself: it is known once the model is loaded."""
    found = listed_model(
        {**ROUTED, "status": {"value": "unloaded", "args": ["llama-server", "-c", "0"]}}
    )
    assert found.window_tokens == NOT_TOLD
    loaded = {**ROUTED, "meta": {"n_ctx": 4096}, "status": {"value": "loaded", "args": ARGS}}
    assert listed_model(loaded).window_tokens == 4096


@pytest.mark.parametrize(
    ("listed", "name", "found"),
    [
        ([SWAPPED, ROUTED], "small", SWAPPED),
        ([SWAPPED, ROUTED], "tiny", SWAPPED),
        ([SWAPPED, ROUTED], "qwen", ROUTED),
        ([SWAPPED], "other", None),
        ([ROUTED], "other", None),
        (
            [{"id": "m.gguf", "owned_by": "llamacpp"}],
            "other",
            {"id": "m.gguf", "owned_by": "llamacpp"},
        ),
        ([{"id": "a"}, {"id": "b"}], "c", None),
    ],
)
def test_only_a_server_of_one_model_answers_to_any_name(
    listed: list[Any], name: str, found: Any
) -> None:
    """A server of several knows their names, also when it has one alone."""
    assert find_entry({"data": listed}, name) == found


def test_llama_swap_shows_where_a_model_runs() -> None:
    """Its own are here, whatever state; a peer's requests are sent on."""
    assert listed_model(SWAPPED) == OtherModel("llama-swap", NOT_TOLD, "loaded", "small")
    assert listed_model(PEER).elsewhere == "cloudy, a peer of llama-swap"
    alias = {**SWAPPED, "id": "tiny", "meta": {"llamaswap": {"type": "alias", "modelID": "small"}}}
    assert listed_model(alias).name == "small"
    told = {**SWAPPED, "meta": {"n_ctx": 24576, "llamaswap": {"type": "model"}}}
    assert listed_model(told).window_tokens == 24576


def test_a_profile_or_a_selector_chooses_another_model() -> None:
    """By what is active."""
    profiles = {"active": "p", "profiles": [{"id": "p", "pins": {"big": "cloudy/far", "off": ""}}]}
    assert pinned_target(profiles, "big") == "cloudy/far"
    assert [pinned_target(profiles, name) for name in ("off", "small")] == ["off", "small"]
    assert pinned_target({"active": None, "profiles": None}, "big") == "big"
    selector = {"meta": {"llamaswap": {"type": "selector", "targets": ["small", "cloudy/far"]}}}
    assert selected_targets(selector) == ("small", "cloudy/far")
    assert selected_targets(SWAPPED) == ()


def test_the_command_line_of_a_model_that_runs() -> None:
    """With quotations and comments, as its configuration has it; what does not end is no command line."""
    command = "llama-server \\\n -c 6144 # all that fits\n --model '/m/a b.gguf'"
    running = {"running": [{"model": "small", "state": "ready", "cmd": command}]}
    state, words = running_command(running, "small")
    assert (state, window_in_command(words), words[-1]) == ("loaded", 6144, "/m/a b.gguf")
    assert running_command(running, "other") == ("unloaded", [])
    broken = {"running": [{"model": "m", "state": "starting", "cmd": "x '"}, 7]}
    assert running_command(broken, "m") == ("loading", [])


STUDIO = {
    "key": "qwen/q",
    "variants": ["qwen/q@q4_k_m"],
    "loaded_instances": [{"id": "qwen/q:2", "config": {"context_length": 12288}}],
    "max_context_length": 40960,
}


@pytest.mark.parametrize("name", ["qwen/q", "qwen/q:2", "qwen/q@q4_k_m"])
def test_lm_studio_knows_a_model_by_its_key_and_its_copies(name: str) -> None:
    """The window is that of the copy in memory."""
    found = studio_model({"models": [{"key": "x"}, STUDIO]}, name)
    assert found == OtherModel("LM Studio", 12288, "loaded", name, 40960)


def test_lm_studio_before_its_api_v1() -> None:
    """Only a loaded model has a window."""
    listed = {"data": [{"id": "m", "state": "not-loaded", "max_context_length": 32768}]}
    found = older_studio_model(listed, "m")
    assert found == OtherModel("LM Studio", NOT_TOLD, "unloaded", "m", 32768)
    assert studio_model({"models": [{**STUDIO, "loaded_instances": None}]}, "other") is None
    assert older_studio_model(listed, "other") is None


def test_ollamas_names_mean_the_latest_tag() -> None:
    """As everywhere in Ollama; and llama-swap's page for its version is not taken for Ollama's."""
    loaded = {"models": [{"name": "qwen3:latest", "context_length": 8192}]}
    assert ollamas_model(loaded, "qwen3") == OtherModel("Ollama", 8192, "loaded", "qwen3")
    assert ollamas_model(loaded, "qwen3:8b").loads_first
    assert is_ollamas_version({"version": "0.33.0"})
    assert not is_ollamas_version({"version": "199", "commit": "abc", "build_date": "x"})
    assert not is_ollamas_version({})


def test_the_window_of_a_session() -> None:
    """LM Studio is asked for one: what is wished, or 8192, and no more than there can be; others have their own."""
    fresh = OtherModel("LM Studio", NOT_TOLD, "unloaded", "m", 32768)
    assert [planned_window(fresh, wished) for wished in (0, 16384, 65536)] == [8192, 16384, 32768]
    assert window_to_load(OtherModel("LM Studio", longest_tokens=4096), 0) == 4096
    loaded = OtherModel("LM Studio", 4096, "loaded", "m", 32768)
    assert planned_window(loaded, 16384) == 4096
    why = Unavailable("it was not asked")
    assert planned_window(why, 8192) == why


SERVERS: list[tuple[ServerName, str]] = [
    ("Ollama", "aider-guard --num-ctx 9216 -- --model ollama_chat/m"),
    ("LM Studio", "lms unload m, then aider-guard --num-ctx 9216"),
    ("llama-swap", "--ctx-size 9216 in the cmd of m"),
    ("llama.cpp's router", "ctx-size = 9216 for m"),
    ("llama.cpp", "llama-server with --ctx-size 9216"),
    ("", "--max-model-len 9216"),
]


@pytest.mark.parametrize(("server", "words"), SERVERS)
def test_each_server_has_its_own_way_to_a_larger_window(server: ServerName, words: str) -> None:
    """The guard's own setting alone changes none of them."""
    assert words in larger_window(server, "m", 9216)
