"""The report on one Ollama server and its models, and which of them a name means; a missing value says why."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Final

from aider_guard.core.architecture import Architecture
from aider_guard.core.model_names import canonical_name, without_local
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import ModelsReading, Unavailable

_RENDERER: Final = re.compile(r"^RENDERER\s", re.MULTILINE)
_SYSTEM: Final = re.compile(r"\.(?:System|Messages)\b")


@dataclass(frozen=True)
class InstalledModel:
    """One entry of ``/api/tags``. ``remote_host`` is set for a stub whose model runs elsewhere (0.12 and later)."""

    name: str
    size_bytes: int
    digest: str
    quantization: str = ""
    remote_host: str = ""
    format: str = ""
    """``gguf``, or ``safetensors`` for a model that MLX runs; "" where unknown."""


@dataclass(frozen=True)
class ModelFacts:
    """The description of one installed model (``/api/show``).

    ``resolved`` is the full name of ``name`` (``qwen3`` is ``qwen3:latest``). ``blob`` is the digest of the file with
    the weights, "" when unknown: tags on one blob share a runner, and reload each other when their windows differ.
    ``size_bytes`` is the size of the weights. ``num_ctx_parameter`` is the window in the model file, 0 for none.
    """

    name: str
    resolved: str
    size_bytes: int | Unavailable
    trained_tokens: int | Unavailable
    architecture: Architecture | Unavailable
    blob: str = ""
    num_ctx_parameter: int = 0
    quantization: str = ""
    remote_host: str = ""
    loses_system: bool = False
    """Whether the model's template leaves out system text (``loses_system``)."""
    sampling: dict[str, float] = field(default_factory=dict)
    """The penalties in the model file, by the names of Ollama's parameters."""


def loses_system(template: object, modelfile: object) -> bool:
    """Whether prompts that are made with this template, of this model file, lack their system text.

    Ollama's templates are in Go, and get it as ``.System`` or within ``.Messages`` (template/template.go). Where a
    model has a RENDERER the template is not used, and one of Jinja's (``{%``) gets all messages.
    """
    if not isinstance(template, str) or not template.strip() or "{%" in template:
        return False
    has_renderer = isinstance(modelfile, str) and _RENDERER.search(modelfile)
    return not has_renderer and _SYSTEM.search(template) is None


@dataclass(frozen=True)
class ModelMissing:
    """Ollama has no model of this name; ``nearest`` are installed ones with the most similar names."""

    name: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerProcess:
    """The process that listens on Ollama's address.

    ``settings`` are its ``OLLAMA_*`` and ``LLAMA_ARG_*`` variables, when the system lets us read them;
    ``settings_from`` says where they were read: ``process`` (a missing setting has its default), ``log`` (which has
    defaults too), or ``runner`` (number of slots, KV cache type and flash attention of one loaded model).

    ``pid`` is 0 and ``name`` "" where the system shows only the user. With ``inferred`` they are those of the only
    Ollama server that this user runs.
    """

    pid: int
    name: str
    user: str
    # Unavailable first: to core/wire.py its one text would be a dict, too.
    settings: Unavailable | dict[str, str] = field(metadata={"journal": False})
    settings_from: str = ""
    inferred: bool = False
    run_by: str = field(default="", compare=False)
    """``systemctl UNIT`` or ``systemctl --user UNIT`` for a service of systemd's, ``container``, or "" for neither."""
    bound: str = field(default="", compare=False)
    """The address that it listens at; "" where the system does not show it."""
    cpu_quota: float = field(default=0.0, compare=False)
    """How many processors its control group lets it use at once; 0 for no limit, and where that is not known."""


@dataclass(frozen=True)
class ServedModel:
    """A model on another server of this machine with OpenAI's protocol: the server's name for it, and Aider's."""

    model: str
    name: str
    base: str = field(repr=False, metadata={"journal": False})
    """The server's address, complete: it may hold a password."""
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False, metadata={"journal": False}
    )
    """The key and headers that Aider sends there."""


@dataclass(frozen=True)
class ServerReport:
    """One survey of a server. ``models`` has an entry for each name in the request."""

    base: str
    """The address as it may be shown."""
    is_local: bool
    version: str | Unavailable
    installed: tuple[InstalledModel, ...] | Unavailable = field(metadata={"journal": False})
    loaded: ModelsReading | Unavailable
    cloud_disabled: bool | Unavailable
    """Whether the server's cloud switch is off (``/api/status``, 0.16.2 and later)."""
    process: ServerProcess | Unavailable
    models: dict[str, ModelFacts | ModelMissing | Unavailable] = field(
        default_factory=dict, metadata={"journal": False}
    )
    others: dict[str, OtherModel | Unavailable] = field(
        default_factory=dict, metadata={"journal": False}
    )
    """The models on other servers of this machine or network, by Aider's names for them."""
    helps: str = field(default="", metadata={"journal": False})
    """What helps where the version is not known, as a line to paste or a sentence."""


# Names of installed models.

MAX_NEAREST: Final = 3
_FAR: Final = 0.4

Installed = tuple[InstalledModel, ...] | Unavailable


def find_installed(name: str, installed: Installed) -> InstalledModel | None:
    """The installed model that a name means; None if there is none.

    A ``:local`` at the end of the name (0.18 and later) is not part of it, unless a tag ``local`` is installed.
    """
    if isinstance(installed, Unavailable):
        return None
    by_name = {canonical_name(model.name): model for model in installed}
    return by_name.get(canonical_name(name)) or by_name.get(canonical_name(without_local(name)))


def nearest_names(name: str, installed: Installed) -> tuple[str, ...]:
    """Installed names that are similar to this one, the most similar first: other tags of the same model come first.

    Stubs of models that run on other machines are left out, and so is the name itself.
    """
    if isinstance(installed, Unavailable):
        return ()
    wanted, tag = canonical_name(name).rsplit(":", 1)
    ranked = []
    for listed in (model.name for model in installed if not model.remote_host):
        model, other_tag = canonical_name(listed).rsplit(":", 1)
        if (model, other_tag) == (wanted, tag):
            continue  # it was asked for because it is not there: the list is older
        bare = _unlike(wanted.rpartition("/")[2], model.rpartition("/")[2])
        ranked.append((min(_unlike(wanted, model), bare), _unlike(tag, other_tag), listed))
    return tuple(near for far, _, near in sorted(ranked) if far <= _FAR)[:MAX_NEAREST]


def _unlike(left: str, right: str) -> float:
    """How different two names are, from 0 to 1."""
    return 1 - SequenceMatcher(None, left, right).ratio()
