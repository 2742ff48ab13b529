"""Asks an Ollama server over HTTP: its version, its models, facts of a model, unloading. Never raises.

The forms of the answers are those of Ollama's api/types.go. Decoding is pure: the functions below take values from
decoded JSON, whatever server sent it, and return None for a form that is not Ollama's.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

import httpx

from aider_guard.core.architecture import (
    LISTS,
    Architecture,
    even_tokens,
    goes_back,
    parse_architecture,
)
from aider_guard.core.model_names import full_name, is_cloud_name, is_valid_name
from aider_guard.core.printable import printable
from aider_guard.core.readings import LoadedModel, ModelsReading, Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.core.server_report import (
    Installed,
    InstalledModel,
    ModelFacts,
    ModelMissing,
    find_installed,
    loses_system,
    nearest_names,
)
from aider_guard.ollama.access import environment_headers
from aider_guard.ollama.http import (
    Answer,
    cause_of,
    fetch,
    json_object,
    refusal,
    says_missing,
    verification,
)
from aider_guard.ollama.names import display_base, is_cloud_base

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aider_guard.ollama.access import Headers

NO_WINDOW: Final = Unavailable("this Ollama does not report the window (0.10 and later do)")
# The line of a model file that names the weights: a blob's path, or its digest. Others (a
# projector's) come after it.
_FROM: Final = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\"?\s*$", re.MULTILINE)
# Go prints a million and more as 1.048576e+06.
_NUM_CTX: Final = re.compile(r"^num_ctx\s+\"?([0-9.]{1,20}(?:e\+[0-9]{1,2})?)\"?\s*$", re.MULTILINE)
_DRAFT_TOKENS: Final = re.compile(r"^draft_num_predict\s+\"?([0-9]{1,4})\"?\s*$", re.MULTILINE)

_PENALTY: Final = re.compile(
    r"^((?:repeat|presence|frequency)_penalty)\s+\"?(-?[0-9]{1,6}(?:\.[0-9]{1,9})?)\"?\s*$",
    re.MULTILINE,
)

Entry = TypeVar("Entry")


def entries(
    answer: dict[str, Any], decode: Callable[[object], Entry | None]
) -> tuple[Entry, ...] | None:
    """The decoded ``models`` of ``/api/ps`` or ``/api/tags``; None if a single one cannot be decoded."""
    match answer:
        case {"models": None}:  # a nil slice of Go
            return ()
        case {"models": list(items)}:
            models = tuple(model for item in items if (model := decode(item)) is not None)
            return models if len(models) == len(items) else None
    return None


def loaded_model(entry: object) -> LoadedModel | None:
    """One entry of ``/api/ps`` (ProcessModelResponse)."""
    match entry:
        case {"name": str(name), "size": size, "size_vram": vram, **more} if name:
            if not (is_count(size) and is_count(vram)):
                return None
            tokens = more.get("context_length")
            return LoadedModel(
                name=name,
                digest=_text(more.get("digest")),
                size_bytes=size,
                vram_bytes=vram,
                window_tokens=tokens if tokens and is_count(tokens) else NO_WINDOW,
            )
    return None


def installed_model(entry: object) -> InstalledModel | None:
    """One entry of ``/api/tags`` (ListModelResponse). Remote fields came with 0.12."""
    match entry:
        case {"name": str(name), "size": size, **more} if name.isprintable() and name:
            if not is_count(size):
                return None
            return InstalledModel(
                name,
                size,
                _text(more.get("digest")),
                _detail(more, "quantization_level"),
                remote_host(more),
                _detail(more, "format"),
            )
    return None


def model_facts(name: str, answer: dict[str, Any], installed: Installed) -> ModelFacts | None:
    """The facts of a model from an answer of ``/api/show`` (ShowResponse)."""
    if not answer.keys() & {"model_info", "modelfile", "details"}:
        return None
    listed = find_installed(name, installed)
    resolved = listed.name if listed else full_name(name)
    if remote := remote_host(answer):
        return stub_facts(name, resolved, remote)
    size: int | Unavailable = Unavailable(f"Ollama does not list {name}")
    if listed is not None:
        size = listed.size_bytes
    elif isinstance(installed, Unavailable):
        size = installed
    return ModelFacts(
        name=name,
        resolved=resolved,
        size_bytes=size,
        trained_tokens=trained_tokens(name, answer.get("model_info")),
        architecture=_architecture(name, answer),
        blob=blob(answer.get("modelfile")),
        num_ctx_parameter=_parameter(_NUM_CTX, answer.get("parameters")),
        quantization=_detail(answer, "quantization_level")
        or (listed.quantization if listed else ""),
        loses_system=loses_system(answer.get("template"), answer.get("modelfile")),
        sampling=_penalties(answer.get("parameters")),
    )


def hides_layers(answer: dict[str, Any]) -> bool:
    """Whether the layers of the model differ from each other, so that only a verbose answer has their numbers.

    Lists are null or empty in a plain answer (routes.go, getModelData).
    """
    match answer:
        case {"model_info": {"general.architecture": str(architecture), **facts}}:
            keys = (f"{architecture}.{key}" for key in LISTS)
            return any(key in facts and facts[key] in (None, []) for key in keys)
    return False


def stub_facts(name: str, resolved: str, remote_host: str) -> ModelFacts:
    """The facts of a name whose model runs on another machine: nothing but that is known."""
    unknown = Unavailable(f"{name} runs on {remote_host}, not here")
    return ModelFacts(name, resolved, unknown, unknown, unknown, remote_host=remote_host)


@dataclass(frozen=True)
class ModelTraits:
    """What a request to a model depends on: the longest context, which is all that Ollama loads, whatever it is asked
    for; whether it can think, and whether its cache goes back to a common beginning. What is not said is the usual.
    """

    trained_tokens: int | Unavailable
    thinks: bool = False
    goes_back: bool = True
    even_tokens: float | Unavailable = Unavailable("the model's shape is not known")
    """Behind how many tokens its attention takes as long as its weights."""


def trained_tokens(name: str, model_info: object) -> int | Unavailable:
    """The longest context that a model was trained for, by the key that has the architecture's name."""
    match model_info:
        case {"general.architecture": str(architecture), **facts}:
            tokens = facts.get(f"{architecture}.context_length")
            if tokens and is_count(tokens):
                return tokens
    return Unavailable(f"Ollama does not report the context that {name} was trained for")


def _architecture(name: str, answer: dict[str, Any]) -> Architecture | Unavailable:
    match answer:
        case {"model_info": dict(facts), **more}:
            found = parse_architecture(facts, more.get("tensors"), more.get("projector_info"))
            if isinstance(found, Unavailable):
                return found
            drafts = _parameter(_DRAFT_TOKENS, more.get("parameters"))
            return replace(found, draft_tokens=drafts if found.nextn_layers else 0)
    return Unavailable(f"Ollama does not report the architecture of {name}")


def blob(modelfile: object) -> str:
    """The digest of the weights that a model file names, as 64 hexadecimal digits; "" when it names none."""
    match = _FROM.search(modelfile) if isinstance(modelfile, str) else None
    return match[1] if match else ""


def _parameter(pattern: re.Pattern[str], parameters: object) -> int:
    """A number among the parameters of a model file; 0 when it sets none."""
    match = pattern.search(parameters) if isinstance(parameters, str) else None
    try:
        tokens = int(float(match[1])) if match else 0
    except ValueError:  # more than one point
        return 0
    return tokens if is_count(tokens) else 0


def _penalties(parameters: object) -> dict[str, float]:
    found = _PENALTY.findall(parameters) if isinstance(parameters, str) else []
    return {name: float(value) for name, value in found}


def _detail(answer: Mapping[Any, Any], name: str) -> str:
    details = answer.get("details")
    return _text(details.get(name)) if isinstance(details, dict) else ""


def remote_host(answer: Mapping[Any, Any]) -> str:
    """The other machine that a model runs on, as either field tells; "" for a model of this server."""
    model, host = answer.get("remote_model"), answer.get("remote_host")
    if not (model or host):
        return ""
    return _text(host) or "another machine"


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a count: an int that is not negative and fits into Go's int64."""
    return type(value) is int and 0 <= value < 2**63  # not isinstance: true is no count


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""


# The client

CONNECT_SECONDS: Final = 2.0
# /api/ps takes locks that Ollama holds for up to 10 s while it talks to a runner (0.32.4 and later).
ANSWER_SECONDS: Final = 12.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
NOT_RENDERED: Final = Unavailable("this server does not make the text of a prompt on request")
NOT_LISTED: Final = Unavailable("Ollama has not been asked yet which models are loaded")
NO_SWITCH: Final = Unavailable("this Ollama has no switch for its cloud (0.16.2 and later do)")


class OllamaClient:
    """A client of one server. Safe to use from several threads; each call ends, however the server behaves.

    ``headers`` go with every question; None means the key in ``OLLAMA_API_KEY``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Headers | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown = display_base(base_url)
        self.base_url = base_url.rstrip("/")
        """The server's address. It may hold a password: show ``names.display_base`` of it."""
        self.headers = environment_headers() if headers is None else headers
        self._answer_seconds = answer_seconds
        self._clock = clock
        self.last_list: ModelsReading | Unavailable = NOT_LISTED
        """The last result of ``loaded_models`` in any thread, without asking again."""
        # trust_env: HTTP_PROXY would catch even 127.0.0.1. No redirect is followed, so a plain http
        # address never needs certificates.
        self._http = httpx.Client(
            headers=self.headers,
            trust_env=False,
            verify=verification(base_url),
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections that were kept open between the calls."""
        self._http.close()

    def version(self, timeout_seconds: float | None = None) -> str | Unavailable:
        """The server's version from ``/api/version``, for example ``0.9.3``."""
        version = self.reach(timeout_seconds)
        return version.plain if isinstance(version, NoAnswer) else version

    def reach(self, timeout_seconds: float | None = None) -> str | NoAnswer:
        """The same as ``version``, with all that is known where the server does not tell it."""
        answer = self._exchange("GET", "/api/version", None, timeout_seconds)
        match self._decoded("/api/version", answer):
            case {"version": str(version)} if version and version.isprintable():
                return version
            case NoAnswer() as why:
                return why
        return self._strange("/api/version")

    def loaded_models(self, timeout_seconds: float | None = None) -> ModelsReading | Unavailable:
        """The loaded models from ``/api/ps``, with the time at which the answer was complete."""
        models = self._list("/api/ps", loaded_model, timeout_seconds)
        if isinstance(models, Unavailable):
            return models
        self.last_list = reading = ModelsReading(models, self._clock())
        return reading

    def installed(self, timeout_seconds: float | None = None) -> Installed:
        """The list of ``/api/tags``: the models on disk, and stubs of models that run on other machines."""
        return self._list("/api/tags", installed_model, timeout_seconds)

    def model_facts(
        self, name: str, installed: Installed, timeout_seconds: float | None = None
    ) -> ModelFacts | ModelMissing | Unavailable:
        """What ``/api/show`` says of a model, completed by the list of ``installed`` ones.

        A cloud model is not asked about: neither by its name, nor as a stub among the installed ones.
        """
        listed = find_installed(name, installed)
        if listed is not None and listed.remote_host and not is_cloud_name(name):
            return stub_facts(name, listed.name, listed.remote_host)
        shown = self._show(name, timeout_seconds)
        if shown is None:
            return ModelMissing(name, nearest_names(name, installed))
        if isinstance(shown, NoAnswer):
            return shown.plain
        if hides_layers(shown):
            # Megabytes, with every token of the vocabulary: only where the short answer is not enough.
            verbose = self._show(name, timeout_seconds, verbose=True)
            shown = verbose if isinstance(verbose, dict) else shown
        return model_facts(name, shown, installed) or self._strange("/api/show").plain

    def blob(self, name: str, timeout_seconds: float | None = None) -> str | Unavailable:
        """The digest of the file with a model's weights, "" where its model file names none."""
        shown = self._show(name, timeout_seconds)
        return blob(shown.get("modelfile")) if isinstance(shown, dict) else _why_not(name, shown)

    def whereabouts(self, name: str, timeout_seconds: float | None = None) -> str | NoAnswer | None:
        """Where ``/api/show`` says that a model runs: "" for here; None where there is no such model."""
        shown = self._show(name, timeout_seconds)
        return remote_host(shown) if isinstance(shown, dict) else shown

    def traits(self, name: str, timeout_seconds: float | None = None) -> ModelTraits:
        """What a request to an installed model depends on."""
        shown = self._show(name, timeout_seconds)
        if not isinstance(shown, dict):
            return ModelTraits(_why_not(name, shown))
        can, info = shown.get("capabilities"), shown.get("model_info")
        thinks = isinstance(can, list) and "thinking" in can
        return ModelTraits(trained_tokens(name, info), thinks, goes_back(info), even_tokens(info))

    def render(
        self, path: str, body: Mapping[str, Any], timeout_seconds: float | None = None
    ) -> str | Unavailable:
        """The text that Ollama makes of a prompt, by a body with ``_debug_render_only`` (0.11.5 and later).

        An older Ollama ignores the field, and generates (``NOT_RENDERED``). The model is loaded if it is not.
        """
        match self._ask("POST", path, body, timeout_seconds):
            case {"_debug_info": {"rendered_template": str(text)}}:
                return text
            case Unavailable() as unavailable:
                return unavailable
        return NOT_RENDERED

    def cloud_disabled(self, timeout_seconds: float | None = None) -> bool | Unavailable:
        """Whether the server's cloud switch is off (``/api/status``, 0.16.2 and later)."""
        answer = self._exchange("GET", "/api/status", None, timeout_seconds)
        if isinstance(answer, Answer) and answer.status == httpx.codes.NOT_FOUND:
            return NO_SWITCH
        match self._decoded("/api/status", answer):
            case {"cloud": {"disabled": bool(disabled)}}:
                return disabled
            case NoAnswer() as why:
                return why.plain
        return self._strange("/api/status").plain

    def unload(self, name: str, timeout_seconds: float | None = None) -> Unavailable | None:
        """Ask Ollama to unload a model: None when it agreed. The model's process ends a little later.

        Ollama also agrees when the model is not loaded; a model that it does not have is refused (404).
        """
        if is_cloud_name(name):
            return _not_sent(name).plain
        if not is_valid_name(name):
            return _missing(name)
        body = {"model": name, "keep_alive": 0}
        answer = self._ask("POST", "/api/generate", body, timeout_seconds)
        return answer if isinstance(answer, Unavailable) else None

    def _show(
        self, name: str, timeout_seconds: float | None, *, verbose: bool = False
    ) -> dict[str, Any] | NoAnswer | None:
        """The answer of ``/api/show``; None where there is no such model.

        Neither the name of a cloud model is sent, nor one under which Ollama can have no model.
        """
        if is_cloud_name(name):
            return _not_sent(name)
        if not is_valid_name(name):
            return None
        body = {"model": name, **({"verbose": True} if verbose else {})}
        answer = self._exchange("POST", "/api/show", body, timeout_seconds)
        if isinstance(answer, Answer) and says_missing(answer.status, answer.content):
            return None
        return self._decoded("/api/show", answer)

    def _list(
        self, path: str, decode: Callable[[object], Entry | None], timeout_seconds: float | None
    ) -> tuple[Entry, ...] | Unavailable:
        answer = self._ask("GET", path, timeout_seconds=timeout_seconds)
        models = answer if isinstance(answer, Unavailable) else entries(answer, decode)
        return self._strange(path).plain if models is None else models

    def _ask(
        self, method: str, path: str, body: Any = None, timeout_seconds: float | None = None
    ) -> dict[str, Any] | Unavailable:
        answer = self._decoded(path, self._exchange(method, path, body, timeout_seconds))
        return answer.plain if isinstance(answer, NoAnswer) else answer

    def _exchange(
        self, method: str, path: str, body: Any, timeout_seconds: float | None
    ) -> Answer | NoAnswer:
        """A whole answer of any status, or why there is none."""
        if is_cloud_base(self.base_url):
            return NoAnswer(f"{self._shown} is Ollama's cloud: nothing is sent there")
        seconds = min(self._answer_seconds, timeout_seconds or self._answer_seconds)
        try:
            return fetch(
                partial(self._http.stream, method, self.base_url + path, json=body),
                seconds=seconds,
                connect_seconds=CONNECT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
                clock=self._clock,
            )
        except httpx.ConnectTimeout:
            cause = "no connection in time"
        except (httpx.TimeoutException, TimeoutError):
            cause = f"no answer within {seconds:.2g} s"
            reason = f"Ollama at {self._shown} did not answer within {seconds:.2g} s"
            return NoAnswer(reason, cause=cause)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            cause = cause_of(error)
        return NoAnswer(f"Ollama cannot be reached at {self._shown} ({cause})", cause=cause)

    def _decoded(self, path: str, answer: Answer | NoAnswer) -> dict[str, Any] | NoAnswer:
        if isinstance(answer, NoAnswer):
            return answer
        if answer.status != httpx.codes.OK:
            return refusal(answer, self._shown, path)
        decoded = json_object(answer.content)
        return self._strange(path) if decoded is None else decoded

    def _strange(self, path: str) -> NoAnswer:
        return NoAnswer(f"{self._shown}{path} answered in a form that is not Ollama's")


def _not_sent(name: str) -> NoAnswer:
    return NoAnswer(f"{name} is a cloud model: its name is not sent")


def _why_not(name: str, shown: NoAnswer | None) -> Unavailable:
    return _missing(name) if shown is None else shown.plain


def _missing(name: str) -> Unavailable:
    return Unavailable(f"Ollama has no model {name}")
