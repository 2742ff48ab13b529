"""Servers that load models on request: what they tell, loading, unloading and counting, played from their documents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from fakes.model_servers import LlamaRouter, LlamaSwap, LMStudio, Model, ModelServer
from fakes.ollama_server import FakeModel, FakeOllama

from aider_guard.core.other_servers import STUDIO_WINDOW_TOKENS, OtherModel
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.ollama.other_server import STUDIO_TTL_SECONDS, Loaded, OtherServer

SECONDS = 20.0
PROMPT = {"model": "small", "messages": [{"role": "user", "content": "one two three"}]}


def models() -> list[Model]:
    """Two models, the first with another name."""
    return [Model("small", 6144, aliases=("tiny",)), Model("large", 2048)]


@pytest.fixture(params=[LlamaSwap, LlamaRouter, LMStudio])
def server(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    """Each kind of server."""
    with request.param(models()) as running:
        yield running


def connected(server: ModelServer) -> closing[OtherServer]:
    """A client of its OpenAI's protocol, without any pause."""
    return closing(OtherServer(f"{server.url}/v1", sleep=lambda _seconds: None))


def described(client: OtherServer, name: str = "small") -> OtherModel:
    """What is told of a model."""
    found = client.describe(name, SECONDS)
    assert isinstance(found, OtherModel)
    return found


def test_a_model_is_loaded_on_request(server: ModelServer) -> None:
    """It is not loaded before, is so afterwards, and has the window that it was loaded with."""
    with connected(server) as client:
        before = described(client)
        assert before.loads_first
        result = client.load(before, 5120, SECONDS)
        assert isinstance(result, Loaded)
        after = described(client)
    assert not after.loads_first
    assert after.state == "loaded"
    is_studio = isinstance(server, LMStudio)
    assert after.window_tokens == (5120 if is_studio else 6144)
    assert result.instance == ("small" if is_studio else "")


def test_a_load_that_fails_is_told(server: ModelServer) -> None:
    """With what the server says of it."""
    server.models[0].broken = True
    with connected(server) as client:
        result = client.load(described(client), 0, SECONDS)
    assert isinstance(result, NoAnswer)
    assert result.status == 500
    assert result.content


def test_another_name_means_the_same_model() -> None:
    """llama-swap and the router list them."""
    for kind in (LlamaSwap, LlamaRouter):
        with kind(models()) as server, connected(server) as client:
            assert described(client, "tiny").name == "small"
            assert isinstance(client.describe("none", SECONDS), Unavailable)


@pytest.mark.parametrize("kind", [LlamaSwap, LlamaRouter])
@pytest.mark.parametrize("counts_whole", [True, False], ids=["by the request", "by its text"])
def test_a_loaded_model_counts_its_prompts(kind: type[LlamaSwap], counts_whole: bool) -> None:
    """By llama.cpp of 2026 and of before; nothing is loaded for it."""
    with kind(models(), has_counts=counts_whole) as server, connected(server) as client:
        client.load(described(client), 0, SECONDS)
        model = described(client)
        assert model.counts
        assert client.count(model, PROMPT, SECONDS) == 7
        assert client.count_texts(model, ("a b", "", "c"), SECONDS) == (2, 0, 1)
        for one in server.models:
            one.loaded = False
        assert not described(client).counts


def test_lm_studio_unloads_the_copy_that_was_made() -> None:
    """And says so where there is none."""
    with LMStudio(models()) as server, connected(server) as client:
        result = client.load(described(client), 8192, SECONDS)
        assert isinstance(result, Loaded)
        assert client.unload(result.instance, SECONDS) is None
        assert described(client).state == "unloaded"
        assert isinstance(client.unload(result.instance, SECONDS), NoAnswer)
    assert server.asked("/api/v1/models/load") == [{"model": "small", "context_length": 8192}]


def test_lm_studio_before_its_api_v1_loads_by_a_request() -> None:
    """The shortest there is, with a time after which the model goes; its own settings choose the window."""
    with LMStudio(models(), has_v1=False) as server, connected(server) as client:
        assert client.load(described(client), 8192, SECONDS) == Loaded()
        assert described(client).window_tokens == 6144
    (asked,) = server.asked("/v1/completions")
    assert (asked["max_tokens"], asked["ttl"]) == (1, STUDIO_TTL_SECONDS)


def test_llama_swap_says_which_models_it_sends_on() -> None:
    """Peers, what an active profile leads to, and selectors with one of them."""
    far = Model("cloudy/far", peer="cloudy")
    pins = {"active": "p", "profiles": [{"id": "p", "pins": {"small": "cloudy/far"}}]}
    with LlamaSwap([*models(), far]) as server, connected(server) as client:
        assert described(client, "cloudy/far").elsewhere == "cloudy, a peer of llama-swap"
        assert not described(client).elsewhere
        server.profiles = pins
        assert described(client).elsewhere
        assert not described(client, "large").elsewhere


def test_a_router_tells_a_sleeping_model() -> None:
    """It is there, with its window; a count would wake it."""
    with (
        LlamaRouter([Model("small", 6144, loaded=True, sleeping=True)]) as server,
        connected(server) as client,
    ):
        found = described(client)
    assert (found.state, found.window_tokens, found.loads_first) == ("sleeping", 6144, False)
    assert not found.counts


def test_ollamas_own_v1_is_noticed() -> None:
    """By its version's page; its names, and its window as soon as it is loaded."""
    with (
        FakeOllama("0.33.0", (FakeModel("qwen3:latest"),)) as ollama,
        closing(OtherServer(f"{ollama.url}/v1")) as client,
    ):
        found = described(client, "qwen3")
        assert (found.server, found.loads_first) == ("Ollama", True)
        assert isinstance(client.load(found, 0, SECONDS), Loaded)
        found = described(client, "qwen3")
        assert isinstance(client.describe("other", SECONDS), Unavailable)
    assert found.state == "loaded"
    assert isinstance(found.window_tokens, int)
    (load,) = [one.body for one in ollama.received if one.path == "/api/generate"]
    assert load == {"model": "qwen3"}


def test_a_stub_of_ollamas_cloud_is_no_model_of_that_ollama() -> None:
    """Also where it is asked by OpenAI's protocol; a cloud's name is sent to nothing that could ask for it."""
    stub = FakeModel("glm:latest", remote_host="https://ollama.com:443")
    names = (stub, FakeModel("qwen:cloud"))
    with FakeOllama("0.33.0", names) as ollama, closing(OtherServer(f"{ollama.url}/v1")) as client:
        assert described(client, "glm").elsewhere == "https://ollama.com:443"
        assert described(client, "qwen:cloud").elsewhere == "Ollama's cloud"
        shown = [one.body["model"] for one in ollama.received if one.path == "/api/show"]
    assert shown == ["glm"]


def test_the_default_window_has_room_for_a_file() -> None:
    """Aider's own instructions take some 2,500 tokens, and an answer an eighth."""
    assert STUDIO_WINDOW_TOKENS >= 8192
