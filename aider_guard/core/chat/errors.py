"""Recognises the errors of model servers, and words each in two lines: what happened, and what helps.

The texts are those of Ollama 0.1 to 0.33 (llm/status.go, llm/server.go, llm/llama_server.go, server/sched.go,
server/routes.go), of llama.cpp's server and of vLLM. Any other error is shown in the server's own words, cut short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from aider_guard.core.chat.events import NOT_TOLD, Reason
from aider_guard.core.chat.response import error_words
from aider_guard.core.chat.types import WindowNeed
from aider_guard.core.messages import size
from aider_guard.core.other_servers import ServerName
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_answers import (
    Meaning,
    Question,
    is_refused,
    meaning_of,
    passes,
    shown_location,
    what_happened,
    what_helps,
    what_helps_connecting,
)

_MAX_WORDS: Final = 160
_UNITS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_AGAIN: Final = "then send your message again"
_LOCAL: Final = "ollama list   shows the models of this machine; /model ollama_chat/NAME takes one"


@dataclass(frozen=True)
class FailedRequest:
    """The request that failed, as far as its error's words need it.

    ``address`` is the server's and may be shown: it holds no password. ``is_here`` is whether it is on this machine.
    """

    model: str
    address: str
    is_ollama: bool = True
    server: ServerName = ""
    """The kind of a server that is no Ollama, as far as it is known."""
    is_here: bool = True
    path: str = ""
    """What was asked for, behind the address."""
    smaller_windows: tuple[WindowNeed, ...] = ()
    alike: tuple[str, ...] = ()
    """Installed models with similar names."""


@dataclass(frozen=True)
class Failure:
    """A server's error by its reason. ``waits`` is whether it goes away by itself.

    Where the prompt was too large, ``prompt_tokens`` and ``window_tokens`` are the server's numbers.
    """

    reason: Reason
    words: str = field(default="", repr=False)
    status: int = 0
    waits: bool = False
    location: str = ""
    """Where a redirect leads, as it may be shown."""
    prompt_tokens: int | Unavailable = NOT_TOLD
    window_tokens: int | Unavailable = NOT_TOLD
    is_at_least: bool = False
    """Whether ``prompt_tokens`` is only a part of the prompt, which is too large by itself."""


_KNOWN: Final[tuple[tuple[str, Reason], ...]] = (
    # The first match counts: a crash may name memory, and a refusal by the cloud is also a 403.
    (r"maximum pending requests exceeded|server busy", "busy"),
    # llama.cpp's own text, and Ollama's states of a runner; "error loading model" is final.
    (r"^loading model\W*$|llm server (loading|launched)|no slots available", "busy"),
    (r"input length exceeds the context length", "overflow"),
    (r"prompt is longer than the context length", "overflow"),
    (r"exceed_context_size_error|exceeds the available context size", "overflow"),
    (r"input length \(\d+ tokens\) exceeds the model's maximum context length", "overflow"),
    (r"maximum context length is \d+|longer than the maximum model length", "overflow"),
    # LM Studio's:
    (r"Trying to keep the first \d+ tokens|n_keep.*n_ctx", "overflow"),
    (r"tokens to keep from the initial prompt is greater than the context", "overflow"),
    (r"insufficient system resources", "memory"),
    (r"no models loaded", "missing"),
    (r"context (length|size|window) exceeded|prompt (is )?too (long|large)", "overflow"),
    (r"ollama cloud is disabled|remote model is unavailable", "cloud"),
    (r"requires more (system|gpu) memory|model request too large for system", "memory"),
    (r"out of memory|out-of-memory|cudaMalloc failed|hipMalloc failed", "memory"),
    (r"failed to allocate|allocation failed|unable to allocate", "memory"),
    (r"vk_error_out_of_(device|host)_memory|ErrorOutOf(Device|Host)Memory", "memory"),
    (r"insufficient memory|cannot allocate", "memory"),
    # Before "not found" (a tensor) and "terminated" (the process that read the file).
    (r"error loading model|(unable|failed) to load model", "unsupported"),
    (r"unknown model architecture|incompatible with your version of Ollama", "unsupported"),
    (r"no router for requested model|could not find real modelID", "missing"),  # llama-swap's
    (r"\bmodel\b.*\bnot found|model_not_found|try pulling it first|does not exist", "missing"),
    (r"unexpectedly stopped|process has terminated|process no longer running", "crashed"),
    (r"llm server (error|not responding)|upstream command exited", "crashed"),
    (r"error starting|runner process|timed out waiting for llama|CUDA error|EOF$", "crashed"),
    (r"connection (refused|reset)|connectex|forcibly closed", "crashed"),  # Ollama's own runner
)
_BROKEN_FILE: Final = re.compile(
    r"corrupted or incomplete|within the file bounds|invalid (file )?magic|tensor .* not found"
)
"""Words of a file that is not whole (llama.cpp's llama-model-loader.cpp and gguf.cpp)."""
_REPETITION: Final = re.compile(r"token repeat limit reached")
"""Ollama's from September 2026 on (ollama#18374)."""
_OTHERWISE: Final = "send your message again in other words, or take another model with /model"
_NUMBERS: Final = (
    r"request \((?P<prompt>\d{1,18}) tokens\) exceeds the available context size \((?P<window>\d{1,18}) tokens",
    r"input length \((?P<prompt>\d{1,18}) tokens\).*maximum context length \((?P<window>\d{1,18}) tokens",
    r"prompt \(length (?P<prompt>\d{1,18})\).*maximum model length of (?P<window>\d{1,18})",
    # LM Studio's: the tokens that it would have to keep, which are most of the prompt.
    r"keep the first (?P<keep>\d{1,18}) tokens.*context length of only (?P<window>\d{1,18})",
    r"n_keep[ :(]+(?P<keep>\d{1,18})\)? >= n_ctx[ :(]+(?P<window>\d{1,18})",
    # vLLM's:
    (
        r"maximum context length is (?P<window>\d{1,18}) tokens"
        r".*?(?:requested|request has|contains at least) (?P<prompt>\d{1,18})"
    ),
)
_BY_MEANING: Final[Mapping[Meaning, Reason]] = {
    "key": "forbidden",
    "not allowed": "forbidden",
    "path": "strange",
    "moved": "strange",
    "too large": "proxy",
    "gone": "proxy",
    "slow": "proxy",
}
_BUSY, _NO_LOGIN = 503, 401
_STARTING: Final[tuple[ServerName, ...]] = ("llama.cpp's router", "llama-swap", "LM Studio")
"""The servers that start a model's process themselves."""


def failure_of_answer(status: int, content: bytes, location: str = "") -> Failure:
    """Return the failure that an answer with another status than 200 reports. ``location`` is that of a redirect."""
    words = error_text(content)
    if status == _NO_LOGIN and _names_login(content):
        return Failure("cloud", words, status)
    if words:
        failure = failure_of_words(words, status)
        if failure.reason != "refused":
            return failure
        if status == _BUSY:
            return Failure("busy", words, status, waits=True)
    else:
        plain = re.sub(r"<[^>]*>", " ", content[:4096].decode("utf-8", "replace"))
        failure = Failure("strange", short_words(plain), status)
    meaning = meaning_of(status)
    if meaning is None:
        return failure
    return replace(
        failure,
        reason=_BY_MEANING[meaning],
        waits=passes(meaning),
        location=shown_location(location),
    )


def failure_of_words(words: str, status: int = 0) -> Failure:
    """Return the failure that a server's own words report, also those in the middle of an answer."""
    matching = (reason for known, reason in _KNOWN if re.search(known, words, re.IGNORECASE))
    reason: Reason = next(matching, "refused")
    failure = Failure(reason, words, status, waits=reason == "busy")
    numbers = next((match for known in _NUMBERS if (match := re.search(known, words))), None)
    if reason != "overflow" or numbers is None:
        return failure
    found = numbers.groupdict()
    prompt, window = int(found.get("prompt") or found["keep"]), int(found["window"])
    is_at_least = "keep" in found
    return replace(failure, prompt_tokens=prompt, window_tokens=window, is_at_least=is_at_least)


def _names_login(content: bytes) -> bool:
    """Whether Ollama says where to sign in to its cloud (server/routes.go, AuthorizationError)."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False
    url = body.get("signin_url") if isinstance(body, dict) else None
    return isinstance(url, str) and bool(url)


def error_text(content: bytes) -> str:
    """Return the words in the body of an error, also of an error in an error; "" when no server writes such a body."""
    try:
        body = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return ""
    match body:
        case {"error": {"error": inner}} | {"error": inner}:
            words = error_words(inner)
        case {"message": str(words)} | {"detail": str(words)}:
            pass
        case _:
            return ""
    # Ollama passes the body of llama-server on as text: {"error":"{\"error\":{…}}"}.
    return (error_text(words.encode("utf-8", "replace")) if words.startswith("{") else "") or words


def short_words(words: str) -> str:
    """Return a server's words on one line: short, and without control characters."""
    plain = printable(words, replacement=" ")
    short = " ".join(plain.split())
    return short if len(short) <= _MAX_WORDS else f"{short[: _MAX_WORDS - 1]}…"


def lines(failure: Failure, request: FailedRequest) -> tuple[str, str]:
    """Return two lines: what happened, and what helps."""
    server = "Ollama" if request.is_ollama else request.server or "the model server"
    words = f": {short_words(failure.words)}" if failure.words else ""
    model, address = request.model, request.address
    match failure.reason:
        case "missing":
            return f"{server} has no model {model}", _get_model(request)
        case "unsupported":
            what, helps = f"{server} cannot run {model}", _runnable(failure, request)
        case "memory":
            what, helps = f"{model} does not fit into memory", _less_memory(failure, request)
        case "crashed":
            what, helps = f"the process of {model} crashed", _try_again(request)
        case "lost":
            what = f"the connection to {address} was lost"
            helps = f"see that {server} runs there and that the network is up, {_AGAIN}"
        case "busy":
            what, helps = f"{server} stayed busy", f"wait for its other requests, {_AGAIN}"
        case "cloud":
            what, helps = f"not sent: {model} would run in Ollama's cloud", _LOCAL
        case "down":
            what, helps = f"{server} does not answer at {address}", _reach(failure, request)
        case "strange" | "forbidden" | "proxy" if meaning := meaning_of(failure.status):
            question = Question(server, address, request.path, failure.location)
            what = what_happened(meaning, failure.status, question)
            helps = what_helps(meaning, question, is_ollama=request.is_ollama)
        case "strange":
            answer = f"status {failure.status}" if failure.status else "no answer in its protocol"
            what = f"what answers at {address} is not {server}: {answer}"
            page = "/api/version" if request.is_ollama else ""
            helps = f"curl {address}{page}   shows what it is"
        case _ if _REPETITION.search(failure.words):
            return f"the model repeated itself until {server} ended its answer", _OTHERWISE
        case _:
            what, helps = f"{server} refused it", _lacking(failure.words) or _more(request)
    return f"{what}{words}", helps


def _try_again(request: FailedRequest) -> str:
    """What helps after a crash: only Ollama starts a model's process again; another server is that process."""
    if request.server in _STARTING:
        return f"send your message again: {request.server} starts it anew; its log says more"
    if not request.is_ollama:
        return f"{_start(request)}; if it crashes again, a smaller model"
    window = fitting_window("", request.smaller_windows)
    smaller = f"aider-guard --num-ctx {window.window_tokens}" if window else "a smaller model"
    return f"send your message again: Ollama starts it anew; if it crashes again, {smaller}"


def _reach(failure: Failure, request: FailedRequest) -> str:
    """What helps where there is no connection: to start the server, but only where nothing listens."""
    if not request.is_here or is_refused(failure.words):
        return _start(request)
    page = "/api/version" if request.is_ollama else "/models"
    return what_helps_connecting(failure.words, Question("", request.address, page))


def waiting_words(failure: Failure) -> str:
    """Return why a server is waited for, in one clause."""
    if failure.reason == "proxy":
        return f"what stands in front of it has no answer of the model server's (status {failure.status})"
    return short_words(failure.words) or "the server is busy"


def _start(request: FailedRequest) -> str:
    if not request.is_here:
        return f"see that it runs there and that the network is up, {_AGAIN}"
    return f"ollama serve   {_AGAIN}" if request.is_ollama else f"start it, {_AGAIN}"


_THINKING: Final = "/think-tokens 0   or take reasoning_effort, thinking_tokens and think out of the model's settings"


def _lacking(words: str) -> str:
    """Return what helps where a model cannot do what it was asked for (server/routes.go, capabilities); "" else."""
    if re.search(r"does not support thinking|think value .* is not supported", words):
        return _THINKING
    if re.search(r"does not support \w+", words):
        return "/model ollama_chat/NAME   takes a model that does (ollama show NAME tells what it can do)"
    return ""


def _more(request: FailedRequest) -> str:
    """Return where the server's log is."""
    if not request.is_ollama:
        return "its log says more: it is where the server was started"
    if not request.is_here:
        return f"its log on that machine ({request.address}) says more"
    return "its log says more: journalctl -u ollama, or where it was started"


def _runnable(failure: Failure, request: FailedRequest) -> str:
    """Return what helps where a model's file cannot be run, now or later: it is too new, or not whole."""
    if not request.is_ollama:
        return "update it, or start it with another model"
    if _BROKEN_FILE.search(failure.words):
        ollama = "" if request.is_here else f"OLLAMA_HOST={request.address} "
        commands = (f"{ollama}ollama {verb} {request.model}" for verb in ("rm", "pull"))
        return f"{' && '.join(commands)}   fetches its file again"
    where = "(ollama -v shows its version)"
    where = where if request.is_here else f"on that machine ({request.address})"
    return f"update Ollama {where}, or take another model: /model ollama_chat/NAME"


def _get_model(request: FailedRequest) -> str:
    alike = f"; installed: {', '.join(request.alike)}" if request.alike else ""
    if not request.is_ollama:
        return f"the model must be one that it serves{alike}"
    there = "" if request.is_here else f"OLLAMA_HOST={request.address} "
    return f"{there}ollama pull {request.model}   {_AGAIN}{alike}"


def _less_memory(failure: Failure, request: FailedRequest) -> str:
    window = fitting_window(failure.words, request.smaller_windows)
    if window is None or not request.is_ollama:  # only Ollama takes a window from a request
        return "a smaller model, or closing what else uses the memory, helps"
    return (
        f"aider-guard --num-ctx {window.window_tokens}   needs {size(window.needed_bytes)} in all"
    )


def fitting_window(words: str, smaller: Sequence[WindowNeed]) -> WindowNeed | None:
    """Return the largest of these windows that fits the memory that the server calls available; None for none.

    Where the server names no available memory, it is the largest of all.
    """
    available = re.search(rf"available \((\d+(?:\.\d+)?) ({'|'.join(_UNITS)})\)", words)
    if not available:
        return smaller[0] if smaller else None
    limit = float(available[1]) * _UNITS[available[2]]
    return next((need for need in smaller if need.needed_bytes <= limit), None)
