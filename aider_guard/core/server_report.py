"""What one Ollama server says of itself and of the models that a session needs. Readings: absence says why."""

from __future__ import annotations

from dataclasses import dataclass, field

from aider_guard.core.model_memory import Architecture
from aider_guard.core.readings import ModelsReading, Unavailable


@dataclass(frozen=True)
class InstalledModel:
    """One entry of ``/api/tags``. ``remote_host`` is set for a stub whose model runs elsewhere (0.12 and later)."""

    name: str
    size_bytes: int
    digest: str
    quantization: str = ""
    remote_host: str = ""
    format: str = ""
    """``gguf``, or ``safetensors`` for a model that MLX runs; "" where it is not told."""


@dataclass(frozen=True)
class ModelFacts:
    """What ``/api/show`` says of one model that is installed.

    ``resolved`` is the full name that the asked one means (``qwen3`` is ``qwen3:latest``). ``blob`` is the digest
    of the file with the weights, "" when it is not told: tags on one blob share a runner, and reload each other when
    their windows differ. ``size_bytes`` is that of the weights. ``num_ctx_parameter`` is the model file's own
    window, 0 when it names none.
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


@dataclass(frozen=True)
class ModelMissing:
    """Ollama has no model of this name; ``nearest`` are installed ones with the most similar names."""

    name: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerProcess:
    """The process that listens where Ollama is asked for. ``settings`` are its ``OLLAMA_*`` and ``LLAMA_ARG_*``
    variables, when the system lets us read them; ``settings_from`` says where they were read: ``process`` (a setting
    that is not there has its default), ``log`` (defaults are there too), or ``runner`` (number of slots, KV cache type
    and flash attention of one loaded model).

    ``pid`` is 0 and ``name`` "" where the system tells only the user. With ``inferred`` they are those of the one
    Ollama server that this user runs.
    """

    pid: int
    name: str
    user: str
    # Unavailable first: to core/wire.py its one text would be a dict, too.
    settings: Unavailable | dict[str, str] = field(metadata={"journal": False})
    settings_from: str = ""
    inferred: bool = False


@dataclass(frozen=True)
class ServedModel:
    """A model on another server of this machine, one that speaks OpenAI's protocol: its name there, and by Aider."""

    model: str
    name: str
    base: str = field(repr=False)
    """The server's address, complete: it may hold a password."""


@dataclass(frozen=True)
class ServerReport:
    """One server, asked once. ``models`` has an entry for each name that was asked for."""

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
    others: dict[str, int | Unavailable] = field(default_factory=dict, metadata={"journal": False})
    """The windows, in tokens, of models on other servers of this machine, by Aider's names for them."""
