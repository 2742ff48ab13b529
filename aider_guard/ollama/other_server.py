"""Asks a server with OpenAI's protocol about one of its models, has the model loaded, and has prompts counted.

Nothing here raises for what a server does, and each call ends in the time that it is given. Which servers may be asked
is for the caller to decide (launch/places.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import httpx

from aider_guard.core import other_servers
from aider_guard.core.model_names import is_cloud_name, same_model
from aider_guard.core.other_servers import OtherModel, find_entry, is_window, listed_model
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.core.server_report import ServedModel
from aider_guard.ollama.access import Headers
from aider_guard.ollama.client import remote_host
from aider_guard.ollama.http import Answer, cause_of, fetch, json_object, verification
from aider_guard.ollama.names import connectable_base, display_base
from aider_guard.ollama.swap_config import configured_window

ANSWER_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 1.0
LOAD_SECONDS: Final = 600.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
STUDIO_TTL_SECONDS: Final = 1800
"""How long LM Studio before 0.4.0 keeps a model that this session had loaded and that is not used (``ttl``)."""
_POLL_SECONDS: Final = 0.25
_NOT_THERE: Final = (
    httpx.codes.NOT_FOUND,
    httpx.codes.METHOD_NOT_ALLOWED,
    httpx.codes.NOT_IMPLEMENTED,
)


def describe_model(
    model: ServedModel,
    within_seconds: float = ANSWER_SECONDS,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> OtherModel | Unavailable:
    """What this model's server tells of it, or why that is not known."""
    with OtherServer(model.base, model.headers, clock=clock) as server:
        return server.describe(model.name, within_seconds)


@dataclass(frozen=True)
class Loaded:
    """A model was loaded; ``instance`` is LM Studio's name for the copy in memory that this call made, else ""."""

    instance: str = ""


class OtherServer:
    """A client of one server. Safe to use from several threads. ``headers`` go with every question."""

    def __init__(
        self,
        base: str,
        headers: Headers = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base = connectable_base(base)
        self._root = self._base.removesuffix("/v1")
        self._shown = display_base(self._base)
        self._clock, self._sleep = clock, sleep
        # As in client.py: no proxy from the environment, no redirect, certificates only for https.
        self._http = httpx.Client(
            headers=headers,
            trust_env=False,
            verify=verification(self._base),
            follow_redirects=False,
        )

    def __enter__(self) -> OtherServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept open between the calls."""
        self._http.close()

    def describe(self, name: str, seconds: float = ANSWER_SECONDS) -> OtherModel | Unavailable:
        """What the server tells of a model, from whichever calls this kind of server has."""
        found = self._describe(name, self._clock() + seconds)
        if isinstance(found, Unavailable) or isinstance(found.window_tokens, int):
            return found
        untold = f"{self._shown} does not report the window"
        when = f" of {name} before it is loaded" if found.loads_first else ""
        return replace(found, window_tokens=Unavailable(f"{untold}{when}"))

    def _describe(self, name: str, deadline: float) -> OtherModel | Unavailable:
        listed = self._get(f"{self._base}/models", deadline)
        if isinstance(listed, Unavailable):
            return listed
        entry = find_entry(listed, name)
        found = None if entry is None else listed_model(entry)
        if found is not None and found.server == "llama-swap":
            return self._swapped(found, listed, name, deadline)
        if found is not None and found.server == "llama.cpp's router":
            return found
        if found is not None and isinstance(found.window_tokens, int):
            return found
        if found is not None and (window := self._props(f"{self._root}/props", deadline)):
            return replace(found, server="llama.cpp", window_tokens=window)
        for path, read in (
            ("/api/v1/models", other_servers.studio_model),
            ("/api/v0/models", other_servers.older_studio_model),
        ):
            of_studio = self._get(f"{self._root}{path}", deadline)
            known = None if isinstance(of_studio, Unavailable) else read(of_studio, name)
            if known is not None:
                return known
        unknown = Unavailable(f"{self._shown} does not list {name}")
        return self._ollamas(listed, name, deadline) or found or unknown

    def load(
        self, model: OtherModel, window_tokens: int = 0, seconds: float = LOAD_SECONDS
    ) -> Loaded | NoAnswer:
        """Have a model loaded, and wait until it is, or until that has failed.

        Only LM Studio 0.4.0 and later takes a window with it; the others have one in their own settings.
        """
        deadline = self._clock() + seconds
        asked: tuple[str, str, dict[str, str] | None]
        is_router = model.server == "llama.cpp's router"
        match model.server:
            case "llama-swap":  # a request for any path of the model waits for it
                asked = ("GET", f"{self._root}/upstream/{quote(model.name)}/health", None)
            case "llama.cpp's router":
                asked = ("POST", f"{self._root}/models/load", {"model": model.name})
            case "LM Studio":
                return self._load_in_studio(model, window_tokens, deadline)
            case "Ollama":
                asked = ("POST", f"{self._root}/api/generate", {"model": model.name})
            case _:
                return Loaded()
        method, url, body = asked
        answer = self._exchange(method, url, body, deadline)
        if isinstance(answer, NoAnswer):
            return answer
        if answer.status >= httpx.codes.BAD_REQUEST and answer.status != httpx.codes.NOT_FOUND:
            is_running = b"already running" in answer.content  # another program has asked for it
            if not (is_router and is_running):
                return _refused(answer)
        return self._wait(model, deadline) if is_router else Loaded()

    def unload(self, instance: str, seconds: float = ANSWER_SECONDS) -> NoAnswer | None:
        """Have LM Studio unload a copy of a model that ``load`` made; None when it did."""
        url, body = f"{self._root}/api/v1/models/unload", {"instance_id": instance}
        answer = self._exchange("POST", url, body, self._clock() + seconds)
        if isinstance(answer, NoAnswer):
            return answer
        return None if answer.status == httpx.codes.OK else _refused(answer)

    def count(
        self, model: OtherModel, body: Mapping[str, Any], seconds: float = ANSWER_SECONDS
    ) -> int | Unavailable:
        """The tokens of a prompt, by the process of a model of llama.cpp's that is loaded; *body* is its request's.

        Since 2026 the process counts a whole request (``/v1/chat/completions/input_tokens``); one of before makes the
        text (``/apply-template``), and counts that.
        """
        deadline = self._clock() + seconds
        path = "/v1/chat/completions/input_tokens"
        match self._post(model, path, {**body, "stream": False}, deadline):
            case {"input_tokens": int(tokens)}:
                return tokens
            case NoAnswer(status=status) as why if status not in _NOT_THERE:
                return why.plain
        match self._post(model, "/apply-template", body, deadline):
            case {"prompt": str(text)}:
                split = self._tokenize(model, text, deadline, add_special=True)
                return split if isinstance(split, Unavailable) else len(split)
            case NoAnswer() as why:
                return why.plain
        return Unavailable(f"{self._shown} does not count prompts")

    def count_texts(
        self, model: OtherModel, texts: Sequence[str], seconds: float = ANSWER_SECONDS
    ) -> tuple[int, ...] | Unavailable:
        """The tokens of single texts, without any that the model puts before a prompt."""
        deadline, counted = self._clock() + seconds, []
        for text in texts:
            tokens = self._tokenize(model, text, deadline, add_special=False)
            if isinstance(tokens, Unavailable):
                return tokens
            counted.append(len(tokens))
        return tuple(counted)

    def _tokenize(
        self, model: OtherModel, text: str, deadline: float, *, add_special: bool
    ) -> list[Any] | Unavailable:
        question = {"content": text, "add_special": add_special, "parse_special": True}
        match self._post(model, "/tokenize", question, deadline):
            case {"tokens": list(tokens)}:
                return tokens
            case NoAnswer() as why:
                return why.plain
        return Unavailable(f"{self._shown} did not say how many tokens a text has")

    def _post(
        self, model: OtherModel, path: str, body: Mapping[str, Any], deadline: float
    ) -> dict[str, Any] | NoAnswer:
        """The answer of the process of a model; nothing is loaded for it."""
        url = f"{self._root}{path}"
        if model.server == "llama-swap":
            url = f"{self._root}/upstream/{quote(model.name)}{path}"
        if model.server == "llama.cpp's router":
            url, body = f"{url}?autoload=false", {**body, "model": model.name}
        answer = self._exchange("POST", url, body, deadline)
        if isinstance(answer, NoAnswer):
            return answer
        decoded = json_object(answer.content) if answer.status == httpx.codes.OK else None
        return _refused(answer) if decoded is None else decoded

    def _swapped(
        self, found: OtherModel, listed: Mapping[str, Any], name: str, deadline: float
    ) -> OtherModel:
        """What llama-swap tells of a model: which one it takes for the name, and the command line of one that runs."""
        profiles = self._get(f"{self._root}/api/profiles", deadline)
        target = name
        if not isinstance(profiles, Unavailable):
            target = other_servers.pinned_target(profiles, name)
        entry = find_entry(listed, target)
        if entry is None:  # a profile may name what is not listed
            return replace(found, state="", window_tokens=other_servers.NOT_TOLD)
        found = listed_model(entry)
        if targets := other_servers.selected_targets(entry):
            models = map(partial(find_entry, listed), targets)
            peers = (listed_model(one).elsewhere for one in models if one is not None)
            return replace(found, state="", elsewhere=next(filter(None, peers), ""))
        running = self._get(f"{self._root}/running", deadline)
        if found.elsewhere or isinstance(running, Unavailable):
            return found
        state, words = other_servers.running_command(running, found.name)
        window: int | None = other_servers.window_in_command(words)
        if state == "loaded":
            url = f"{self._root}/upstream/{quote(found.name)}/props"
            window = self._props(url, deadline) or window
        elif not isinstance(found.window_tokens, int):
            window = configured_window(self._root, found.name)
        tokens = window if is_window(window) else found.window_tokens
        return replace(found, state=state, window_tokens=tokens)

    def _ollamas(
        self, listed: Mapping[str, Any], name: str, deadline: float
    ) -> OtherModel | Unavailable | None:
        """What Ollama tells of a model by its own protocol; None where the server is none."""
        version = self._get(f"{self._root}/api/version", deadline)
        if isinstance(version, Unavailable) or not other_servers.is_ollamas_version(version):
            return None
        names = [str(entry.get("id")) for entry in other_servers.listed_entries(listed)]
        if not any(same_model(one, name) for one in names):
            return Unavailable(f"Ollama at {self._shown} does not list {name}")
        loaded = self._get(f"{self._root}/api/ps", deadline)
        found = other_servers.ollamas_model({} if isinstance(loaded, Unavailable) else loaded, name)
        return replace(found, elsewhere=self._ollamas_host(name, deadline))

    def _ollamas_host(self, name: str, deadline: float) -> str:
        """Where an Ollama runs a model if not itself (a stub of its cloud's); a cloud's name is not sent."""
        if is_cloud_name(name):
            return "Ollama's cloud"
        answer = self._exchange("POST", f"{self._root}/api/show", {"model": name}, deadline)
        shown = None if isinstance(answer, NoAnswer) else json_object(answer.content)
        return remote_host(shown) if shown is not None else ""

    def _load_in_studio(
        self, model: OtherModel, window_tokens: int, deadline: float
    ) -> Loaded | NoAnswer:
        wish = {"context_length": window_tokens} if window_tokens else {}
        answer = self._exchange(
            "POST", f"{self._root}/api/v1/models/load", {"model": model.name, **wish}, deadline
        )
        if isinstance(answer, NoAnswer):
            return answer
        match json_object(answer.content):
            case {"instance_id": str(instance)} if answer.status == httpx.codes.OK:
                return Loaded(instance)
            case {"error": str(words)} if "unexpected endpoint" in words.lower():
                pass
            case _ if answer.status not in _NOT_THERE:
                return _refused(answer)
        # Before 0.4.0 a model is loaded by its first request, with the window of LM Studio's own settings.
        shortest = {"prompt": " ", "max_tokens": 1, "ttl": STUDIO_TTL_SECONDS}
        answer = self._exchange(
            "POST", f"{self._base}/completions", {"model": model.name, **shortest}, deadline
        )
        if isinstance(answer, NoAnswer):
            return answer
        return Loaded() if answer.status == httpx.codes.OK else _refused(answer)

    def _wait(self, model: OtherModel, deadline: float) -> Loaded | NoAnswer:
        """Wait until the router has loaded a model: it answers before that, and tells how it went in its list."""
        while self._clock() < deadline:
            self._sleep(_POLL_SECONDS)
            found = self.describe(model.name)
            if isinstance(found, Unavailable) or found.state in ("loaded", "sleeping"):
                return Loaded()  # a router that is gone is told by the request itself
            if found.failed and found.state == "unloaded":
                return NoAnswer(
                    "its process ended with an error; the router's log says more",
                    content=b'{"error": "failed to load model: its process ended with an error"}',
                    status=httpx.codes.INTERNAL_SERVER_ERROR,
                )
        return NoAnswer("the model was not loaded in time", cause="no answer in time")

    def _props(self, url: str, deadline: float) -> int | None:
        """The window that ``/props`` of llama.cpp's server names; None for none."""
        match self._get(url, deadline):
            case {"default_generation_settings": {"n_ctx": tokens}} if is_window(tokens):
                return tokens
        return None

    def _get(self, url: str, deadline: float) -> dict[str, Any] | Unavailable:
        """The JSON object at this address."""
        answer = self._exchange("GET", url, None, deadline)
        if isinstance(answer, NoAnswer):
            return answer.plain
        if answer.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return Unavailable(
                f"{self._shown} reports its window only with a key ({answer.status})"
            )
        decoded = json_object(answer.content) if answer.status == httpx.codes.OK else None
        if decoded is None:
            return Unavailable(f"{self._shown} answered in an unknown form ({answer.status})")
        return decoded

    def _exchange(self, method: str, url: str, body: Any, deadline: float) -> Answer | NoAnswer:
        """A whole answer of any status, or why there is none."""
        try:
            return fetch(
                partial(self._http.stream, method, url, json=body),
                seconds=max(0.001, deadline - self._clock()),
                connect_seconds=CONNECT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
                clock=self._clock,
            )
        except (httpx.TimeoutException, TimeoutError):
            return NoAnswer(f"{self._shown} did not answer in time", cause="no answer in time")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            words = str(error) or type(error).__name__
            return NoAnswer(f"{self._shown} cannot be reached ({words})", cause=cause_of(error))


def _refused(answer: Answer) -> NoAnswer:
    return NoAnswer(f"status {answer.status}", answer.status, answer.content)
