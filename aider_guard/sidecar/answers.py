"""What Ollama's answers mean: values from decoded JSON, whoever sent it. Pure; nothing here raises.

The forms are those of Ollama's api/types.go; None stands for a form that is not Ollama's.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from aider_guard.core.model_memory import Architecture, parse_architecture
from aider_guard.core.readings import LoadedModel, Unavailable
from aider_guard.core.server_report import InstalledModel, ModelFacts
from aider_guard.sidecar.installed import Installed, find_installed
from aider_guard.sidecar.names import full_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NO_WINDOW: Final = Unavailable("this Ollama does not tell the window (0.10 and later do)")
# The line of a model file that names the weights: a blob's path, or its digest. Others (a
# projector's) come after it.
_FROM: Final = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\"?\s*$", re.MULTILINE)
# Go prints a million and more as 1.048576e+06.
_NUM_CTX: Final = re.compile(r"^num_ctx\s+\"?([0-9.]{1,20}(?:e\+[0-9]{1,2})?)\"?\s*$", re.MULTILINE)

Entry = TypeVar("Entry")


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def refusal(status: int, content: bytes, path: str) -> str:
    """A sentence for an answer other than 200; Ollama's own words where it has some, cut short."""
    words = _error(content)
    if words:
        return f"Ollama refused {path}: {printable(words)[:200]} ({status})"
    return f"Ollama answered {path} with status {status}"


def says_missing(status: int, content: bytes) -> bool:
    """Whether ``/api/show`` was refused because there is no such model, or can be none.

    404 ``model 'x' not found``; a name of an impossible form is 500 ``invalid model path`` (0.9)
    or 400 ``invalid model name`` (later).
    """
    words = _error(content)
    if status == 404:
        return "not found" in words
    return status in (400, 500) and words.startswith("invalid model")


def _error(content: bytes) -> str:
    match json_object(content):
        case {"error": str(words)}:
            return words
    return ""


def entries(
    answer: dict[str, Any], decode: Callable[[object], Entry | None]
) -> tuple[Entry, ...] | None:
    """The ``models`` of ``/api/ps`` and ``/api/tags``, decoded; none may be strange."""
    match answer:
        case {"models": None}:  # a nil slice of Go
            return ()
        case {"models": list(items)}:
            known = tuple(model for item in items if (model := decode(item)) is not None)
            return known if len(known) == len(items) else None
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
    """What ``/api/show`` answered about a model (ShowResponse)."""
    if not answer.keys() & {"model_info", "modelfile", "details"}:
        return None
    listed = find_installed(name, installed)
    remote = remote_host(answer)
    if remote:
        return stub_facts(name, listed.name if listed else full_name(name), remote)
    architecture = _architecture(name, answer)
    return ModelFacts(
        name=name,
        resolved=listed.name if listed else full_name(name),
        size_bytes=_size(name, listed, installed),
        trained_tokens=trained_tokens(name, answer.get("model_info")),
        architecture=architecture,
        blob=blob(answer.get("modelfile")),
        num_ctx_parameter=_num_ctx(answer.get("parameters")),
        quantization=_detail(answer, "quantization_level")
        or (listed.quantization if listed else ""),
    )


def hides_layers(answer: dict[str, Any]) -> bool:
    """Whether the model's layers differ: their numbers are only told when asked verbosely.

    Lists are null or empty in a plain answer (routes.go, getModelData).
    """
    match answer:
        case {"model_info": {"general.architecture": str(architecture), **facts}}:
            keys = (f"{architecture}.attention.{key}" for key in ("head_count", "head_count_kv"))
            return any(key in facts and facts[key] in (None, []) for key in keys)
    return False


def stub_facts(name: str, resolved: str, remote_host: str) -> ModelFacts:
    """What is known of a name whose model runs on another machine: only that."""
    unknown = Unavailable(f"{name} runs on {remote_host}, not here")
    return ModelFacts(name, resolved, unknown, unknown, unknown, remote_host=remote_host)


def trained_tokens(name: str, model_info: object) -> int | Unavailable:
    """The longest context that a model was trained for; the key has the architecture's name."""
    match model_info:
        case {"general.architecture": str(architecture), **facts}:
            tokens = facts.get(f"{architecture}.context_length")
            if tokens and is_count(tokens):
                return tokens
    return Unavailable(f"Ollama does not know what context {name} was trained for")


def _architecture(name: str, answer: dict[str, Any]) -> Architecture | Unavailable:
    match answer:
        case {"model_info": dict(facts), **more}:
            tensors = more.get("tensors")
            return parse_architecture(facts, tensors if isinstance(tensors, list) else ())
    return Unavailable(f"Ollama does not tell the numbers of {name}")


def _size(name: str, listed: InstalledModel | None, installed: Installed) -> int | Unavailable:
    if isinstance(installed, Unavailable):
        return installed
    return listed.size_bytes if listed else Unavailable(f"Ollama does not list {name}")


def blob(modelfile: object) -> str:
    """The digest of the weights that a model file names, as 64 hexadecimal digits; "" when it names none."""
    found = _FROM.search(modelfile) if isinstance(modelfile, str) else None
    return found[1] if found else ""


def _num_ctx(parameters: object) -> int:
    found = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    try:
        tokens = int(float(found[1])) if found else 0
    except ValueError:  # more than one point
        return 0
    return tokens if is_count(tokens) else 0


def _detail(answer: Mapping[Any, Any], name: str) -> str:
    details = answer.get("details")
    return _text(details.get(name)) if isinstance(details, dict) else ""


def remote_host(answer: Mapping[Any, Any]) -> str:
    """Where the model runs; whatever stands in either field, it is not here."""
    model, host = answer.get("remote_model"), answer.get("remote_host")
    if not (model or host):
        return ""
    return _text(host) or "another machine"


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a number of things, as Go's int64 holds them."""
    return type(value) is int and 0 <= value < 2**63  # not isinstance: true is no count


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""


def printable(text: str) -> str:
    """The text without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
