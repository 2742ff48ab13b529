"""Reads what servers with OpenAI's protocol tell of their models, and words what helps on each kind of server.

The protocol has no field for a window, and none for whether a model is loaded, so that each kind has its own:

* vLLM and SGLang: ``max_model_len`` in ``/v1/models``;
* llama.cpp's server: ``meta.n_ctx`` there, for each slot (an older one only ``default_generation_settings.n_ctx`` in
  ``/props``);
* its router: also ``status.value``, and ``status.args``, the command line with which a model is or would be started
  (tools/server/README.md, "Using multiple models");
* llama-swap: ``status.value``; the command lines of models that run in ``/running``; ``meta.n_ctx`` where its
  configuration says one (internal/server/api.go);
* LM Studio: ``loaded_instances[].config.context_length`` in ``/api/v1/models`` (0.4.0 and later), else
  ``loaded_context_length`` in ``/api/v0/models``;
* Ollama: ``context_length`` in ``/api/ps``.

The context that a model was trained for (``n_ctx_train``, ``max_context_length``) is no window: it is not the one that
is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeGuard

from aider_guard.core.model_names import same_model
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable

ServerName = Literal["", "Ollama", "llama.cpp", "llama.cpp's router", "llama-swap", "LM Studio"]
"""The kinds of servers that are told apart; "" is any other, vLLM and SGLang among them."""
ModelState = Literal["", "loaded", "sleeping", "loading", "unloaded"]
"""Whether a model is in memory; "" where its server has no other models, or does not say it.

``sleeping``: llama.cpp has put its memory back, and takes it again for the next request (``--sleep-idle-seconds``).
"""
NOT_TOLD: Final = Unavailable("this server did not tell its window")
STUDIO_WINDOW_TOKENS: Final = 8192
"""The window with which LM Studio is to load a model where no other is wished: its own default of 4096 has no room for
a file beside Aider's instructions."""
LEAST_TOKENS: Final = 16
_LOADING_FIRST: Final[tuple[ServerName, ...]] = (
    "Ollama",
    "llama.cpp's router",
    "llama-swap",
    "LM Studio",
)
_COUNTING: Final[tuple[ServerName, ...]] = ("llama.cpp's router", "llama-swap")
_STATES: Final[Mapping[object, ModelState]] = {
    "loaded": "loaded",
    "ready": "loaded",
    "sleeping": "sleeping",
    "loading": "loading",
    "starting": "loading",
    "downloading": "loading",
}


@dataclass(frozen=True)
class OtherModel:
    """What a server with OpenAI's protocol tells of one of its models.

    ``window_tokens`` is the window that is loaded, or with which the model will be loaded; ``name`` is the server's own
    for the model. ``elsewhere`` says where it is run where the server only passes requests on; "" for nowhere else.
    """

    server: ServerName
    window_tokens: int | Unavailable = NOT_TOLD
    state: ModelState = ""
    name: str = ""
    longest_tokens: int = 0
    """The longest window that the model can be loaded with; 0 where the server does not tell."""
    elsewhere: str = ""
    failed: bool = False
    """Whether its process ended with an error when it was last loaded (llama.cpp's router)."""

    @property
    def loads_first(self) -> bool:
        """Whether the model must be loaded before it can answer, and the server does that on request."""
        return self.state in ("unloaded", "loading") and self.server in _LOADING_FIRST

    @property
    def counts(self) -> bool:
        """Whether the server says how many tokens a prompt has, without loading anything for it."""
        return self.server == "llama.cpp" or (self.server in _COUNTING and self.state == "loaded")


def is_window(tokens: object) -> TypeGuard[int]:
    """Whether a value is a number of tokens that can be a window."""
    return type(tokens) is int and LEAST_TOKENS <= tokens < 2**63


def listed_entries(listed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models in a list: of ``/v1/models`` and ``/api/v0/models``, or of ``/api/v1/models`` and ``/api/ps``."""
    for key in ("data", "models"):
        if isinstance(items := listed.get(key), list):
            return [item for item in items if isinstance(item, dict)]
    return []


def find_entry(listed: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The entry of a model in ``/v1/models``, by its name or another name of it.

    The only entry of a list is taken for any name, as llama.cpp's server for one model ignores names. A server that
    says of each model whether it is loaded does not.
    """
    found = listed_entries(listed)
    for entry in found:
        if name == entry.get("id") or name in _aliases(entry):
            return entry
    knows_names = any(_status(entry) or server_of(entry) == "llama-swap" for entry in found)
    return found[0] if len(found) == 1 and not knows_names else None


def _aliases(entry: Mapping[str, Any]) -> Iterator[object]:
    for names in (entry.get("aliases"), _swap_meta(entry).get("aliases")):
        yield from names if isinstance(names, list) else ()


def _status(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    status = entry.get("status")
    return status if isinstance(status, dict) else {}


def _swap_meta(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = entry.get("meta")
    found = meta.get("llamaswap") if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else {}


def server_of(entry: Mapping[str, Any]) -> ServerName:
    """The kind of the server that lists this entry in ``/v1/models``, "" where the entry does not show it."""
    if entry.get("owned_by") == "llama-swap":
        return "llama-swap"
    if _status(entry):
        return "llama.cpp's router"
    return "llama.cpp" if entry.get("owned_by") == "llamacpp" else ""


def listed_model(entry: Mapping[str, Any]) -> OtherModel:
    """What an entry of ``/v1/models`` tells of its model."""
    server, status = server_of(entry), _status(entry)
    meta = entry.get("meta")
    slot = meta.get("n_ctx") if isinstance(meta, dict) else None
    args = status.get("args")
    words = [word for word in args if isinstance(word, str)] if isinstance(args, list) else []
    told = (entry.get("max_model_len"), slot, window_in_command(words))
    state = _STATES.get(status.get("value"), "unloaded") if status else ""
    # An entry of llama-swap's for another name of a model has the model's own name in its description.
    names = (_swap_meta(entry).get("modelID"), entry.get("id"))
    return OtherModel(
        server,
        next((tokens for tokens in told if is_window(tokens)), NOT_TOLD),
        state,
        next((name for name in names if isinstance(name, str)), ""),
        elsewhere=_peer(entry),
        failed=status.get("failed") is True,
    )


def _peer(entry: Mapping[str, Any]) -> str:
    """The other server that llama-swap passes a model's requests on to (its configuration's ``peers``); "" for none."""
    match _swap_meta(entry):
        case {"type": "peer", "peerID": str(peer)} if peer:
            return f"{printable(peer)[:80]}, a peer of llama-swap"
        case {"type": "peer"}:
            return "a peer of llama-swap"
    return ""


def pinned_target(profiles: Mapping[str, Any], name: str) -> str:
    """The model that llama-swap takes for this name by its active profile (``/api/profiles``), else the name."""
    active = profiles.get("active")
    for profile in profiles.get("profiles") or ():
        match profile:
            case {"id": str(key), "pins": {} as pins} if key == active:
                target = pins.get(name)
                return target if isinstance(target, str) and target else name
    return name


def selected_targets(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The models among which llama-swap chooses for a selector of its configuration; none for a model."""
    match _swap_meta(entry):
        case {"type": "selector", "targets": list(targets)}:
            return tuple(target for target in targets if isinstance(target, str))
    return ()


# Command lines.

_WINDOW: Final = ("-c", "--ctx-size", "--max-model-len")
_SLOTS: Final = ("-np", "--parallel")
_SHARED: Final = ("-kvu", "--kv-unified")


def running_command(running: Mapping[str, Any], name: str) -> tuple[ModelState, list[str]]:
    """The state of a model in llama-swap's ``/running``, and the words of its command line."""
    for entry in listed_entries({"data": running.get("running")}):
        if entry.get("model") == name:
            command = entry.get("cmd")
            return _STATES.get(entry.get("state"), "unloaded"), _split(command)
    return "unloaded", []


def _split(command: object) -> list[str]:
    try:
        return shlex.split(command, comments=True) if isinstance(command, str) else []
    except ValueError:  # a quotation that does not end
        return []


def window_in_command(words: Sequence[str]) -> int | None:
    """The window for one request in a command line of llama.cpp's server or vLLM's; None where it names none.

    Slots whose number is given share the window, unless the cache is common to them (common/arg.cpp: ``--kv-unified``).
    """
    window, slots = _last_number(words, _WINDOW), _last_number(words, _SLOTS)
    if window is None:
        return None
    is_shared = any(word in _SHARED for word in words)
    return window if is_shared or slots is None or slots < 1 else window // slots


def _last_number(words: Sequence[str], options: Sequence[str]) -> int | None:
    """The number behind the last of these options; None without one, and where it is no number."""
    number = None
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in options:
            text = value if equals else following
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
    return number


# LM Studio and Ollama, by lists of their own.


def studio_model(listed: Mapping[str, Any], name: str) -> OtherModel | None:
    """What LM Studio tells of a model in ``/api/v1/models``; None where it does not list it."""
    for entry in listed_entries(listed):
        instances = entry.get("loaded_instances")
        loaded = (
            [one for one in instances if isinstance(one, dict)]
            if isinstance(instances, list)
            else []
        )
        ids = [one.get("id") for one in loaded]
        names = (entry.get("key"), entry.get("selected_variant"), *(entry.get("variants") or ()))
        if name not in ids and name not in names:
            continue
        instance = loaded[ids.index(name)] if name in ids else loaded[0] if loaded else {}
        config = instance.get("config")
        tokens = config.get("context_length") if isinstance(config, dict) else None
        return _studio(entry, name, "loaded" if loaded else "unloaded", tokens)
    return None


def older_studio_model(listed: Mapping[str, Any], name: str) -> OtherModel | None:
    """What LM Studio tells of a model in ``/api/v0/models``; None where it does not list it."""
    for entry in listed_entries(listed):
        if entry.get("id") == name:
            tokens = entry.get("loaded_context_length")
            is_loaded = entry.get("state") != "not-loaded"
            return _studio(entry, name, "loaded" if is_loaded else "unloaded", tokens)
    return None


def _studio(entry: Mapping[str, Any], name: str, state: ModelState, tokens: object) -> OtherModel:
    longest = entry.get("max_context_length")
    return OtherModel(
        "LM Studio",
        tokens if is_window(tokens) else NOT_TOLD,
        state,
        name,
        longest if is_window(longest) else 0,
    )


def ollamas_model(loaded: Mapping[str, Any], name: str) -> OtherModel:
    """What Ollama tells of a model in ``/api/ps``. ``NAME`` is ``NAME:latest``, as everywhere in Ollama."""
    for entry in listed_entries(loaded):
        listed = entry.get("name")
        if isinstance(listed, str) and same_model(listed, name):
            tokens = entry.get("context_length")
            return OtherModel("Ollama", tokens if is_window(tokens) else NOT_TOLD, "loaded", name)
    return OtherModel("Ollama", NOT_TOLD, "unloaded", name)


def is_ollamas_version(answer: Mapping[str, Any]) -> bool:
    """Whether an answer of ``/api/version`` is Ollama's: llama-swap has that path too, and names a commit."""
    return isinstance(answer.get("version"), str) and "commit" not in answer


# Words.


def window_to_load(model: OtherModel, requested_tokens: int) -> int:
    """The window with which LM Studio is to load a model: the requested one, 0 for none, and at most the longest."""
    wished = requested_tokens or STUDIO_WINDOW_TOKENS
    return min(wished, model.longest_tokens or wished)


def planned_window(model: OtherModel | Unavailable, requested_tokens: int) -> int | Unavailable:
    """The window that a model will have in a session: the reported one, or the one that it will be loaded with."""
    if isinstance(model, Unavailable):
        return model
    if model.server == "LM Studio" and model.loads_first:
        return window_to_load(model, requested_tokens)
    return model.window_tokens


def larger_window(server: ServerName, model: str, tokens: int) -> str:
    """How a model gets a larger window where ``--num-ctx`` alone does not give it one, in a clause."""
    match server:
        case "Ollama":
            start = f"aider-guard --num-ctx {tokens} -- --model ollama_chat/{model}"
            return f"Ollama's /v1 has no field for a window: {start}"
        case "LM Studio":
            return f"lms unload {model}, then aider-guard --num-ctx {tokens}"
        case "llama-swap":
            return f"--ctx-size {tokens} in the cmd of {model} in llama-swap's configuration"
        case "llama.cpp's router":
            return f"ctx-size = {tokens} for {model} in the router's --models-preset, or --ctx-size {tokens} for all"
        case "llama.cpp":
            return f"start llama-server with --ctx-size {tokens}"
        case "":
            return f"start its server with a window of {tokens:,} tokens (vLLM: --max-model-len {tokens})"


def loading_words(model: OtherModel, asked: str) -> str:
    """What is waited for while a server loads a model, in a clause."""
    return f"{model.server or 'the model server'} is loading {asked}"
