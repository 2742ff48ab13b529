"""The models of a stand-in: what lies in Ollama's folder of models, and how the API describes it.

The layout is Ollama's (``manifests/HOST/NAMESPACE/NAME/TAG`` and ``blobs/sha256-…``), so the private Ollama and the
stand-in can use one folder. What decides which template makes the prompts is that of server/images.go.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from standin.gguf_file import GgufHead, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
LAYER = "application/vnd.ollama.image."
NAME = re.compile(r"[\w][\w.-]*")
TemplateKind = Literal[
    "renderer_parser", "renderer", "parser", "go_template", "gguf_chat_template", "none"
]
"""Who makes a model's prompts, as the log says it at a load."""


class InvalidNameError(ValueError):
    """What was asked for cannot be the name of a model."""


@dataclass(frozen=True)
class ModelName:
    """A name in its four parts (types/model/name.go)."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name as a user writes it. Raises ``InvalidNameError``."""
        parts = text.split("/")
        model, _, tag = parts[-1].partition(":")
        host, namespace, *_ = [*[HOST, NAMESPACE][: 3 - len(parts)], *parts[:-1]]
        found = cls(host, namespace, model, tag or TAG)
        if len(parts) > 3 or not all(NAME.fullmatch(part) for part in (model, found.tag)):
            raise InvalidNameError
        return found

    @property
    def shown(self) -> str:
        """The name without what goes without saying, always with its tag."""
        place = [] if self.namespace == NAMESPACE and self.host == HOST else [self.namespace]
        host = [] if self.host == HOST else [self.host]
        return "/".join([*host, *place, f"{self.model}:{self.tag}"])


@dataclass(frozen=True)
class StoredModel:
    """One model of the folder, with what its layers hold."""

    name: ModelName
    digest: str
    """Of its manifest, without prefix."""
    size_bytes: int
    modified: float
    """Unix time in seconds."""
    file: Path
    """Its weights."""
    config: Mapping[str, Any]
    go_template: str | None = field(default=None, repr=False)
    system: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, str], ...] = field(default=(), repr=False)

    @property
    def head(self) -> GgufHead:
        """The head of its file."""
        return read_head(self.file)

    @property
    def renderer(self) -> str:
        """The code of Ollama's own that makes its prompts; "" where there is none."""
        return str(self.config.get("renderer") or "")

    @property
    def parser(self) -> str:
        """The code of Ollama's own that reads its answers; "" where there is none."""
        return str(self.config.get("parser") or "")

    @property
    def template_kind(self) -> TemplateKind:
        """Who makes its prompts: a template in Go yields to one in the file that can do more."""
        chat = self.head.chat_template
        match bool(self.renderer), bool(self.parser):
            case True, True:
                return "renderer_parser"
            case True, False:
                return "renderer"
            case False, True:
                return "parser"
        if self.go_template is not None and not self._prefers_chat_template:
            return "go_template"
        return "gguf_chat_template" if chat else "none"

    @property
    def is_native(self) -> bool:
        """Whether llama.cpp makes its prompts, with the template in the file."""
        return self.template_kind in ("gguf_chat_template", "none")

    @property
    def template(self) -> str:
        """The template that the API shows, which is not used where a renderer is."""
        if self.template_kind == "gguf_chat_template":
            return self.head.chat_template
        return self.go_template or "{{ .Prompt }}"

    @property
    def capabilities(self) -> list[str]:
        """What the model can do, by the template that is used."""
        if self.is_native:
            return self.abilities("chat")
        return self.abilities("go" if self.template_kind == "go_template" else "parser")

    def abilities(self, source: Literal["go", "chat", "parser"]) -> list[str]:
        """What the model could do if its prompts were made in this way."""
        own = ["tools"] if self.parser else []
        if source == "chat":
            found = [*_chat_abilities(self.head.chat_template), "completion", *own]
        else:
            found = ["completion", *self._go_abilities, *own]
        return list(dict.fromkeys(found))

    @property
    def details(self) -> dict[str, Any]:
        """As ``/api/ps`` and ``/api/show`` have it."""
        return {
            "parent_model": "",
            "format": self.config.get("model_format", "gguf"),
            "family": self.config.get("model_family", self.head.architecture),
            "families": self.config.get("model_families", [self.head.architecture]),
            "parameter_size": human_number(self.head.parameters),
            "quantization_level": self.head.quantisation,
        }

    @property
    def entry(self) -> dict[str, Any]:
        """As ``/api/tags`` has it."""
        more = {
            "context_length": self.head.trained_tokens,
            "embedding_length": self.head.embedding_length,
        }
        return {
            "name": self.name.shown,
            "model": self.name.shown,
            "modified_at": go_time(self.modified),
            "size": self.size_bytes,
            "digest": self.digest,
            "details": {**self.details, **more},
            "capabilities": ["completion"] if self.is_native else self.capabilities,
        }

    def description(self, *, verbose: bool) -> dict[str, Any]:
        """As ``/api/show`` has it; ``verbose`` is with the lists of the file."""
        hidden = ("general.name", "tokenizer.chat_template")
        info = {key: value for key, value in self.head.metadata.items() if key not in hidden}
        info["general.parameter_count"] = self.head.parameters
        if not verbose:
            info |= {key: None for key, value in info.items() if isinstance(value, list)}
        said = {"system": self.system, "messages": [*self.messages]}
        return {
            "modelfile": self._modelfile(),
            "parameters": "\n".join(f"{key:<30} {_go_literal(it)}" for key, it in self._settings()),
            "template": self.template,
            **{key: value for key, value in said.items() if value},
            "details": self.details,
            "model_info": dict(sorted(info.items())),
            "tensors": list(self.head.tensors),
            "capabilities": self.capabilities,
            "modified_at": go_time(self.modified),
        }

    @property
    def _prefers_chat_template(self) -> bool:
        chat, own = self.head.chat_template, self.go_template or ""
        if len(_chat_abilities(chat)) > len(self._go_abilities):
            return ".ToolCalls" not in own or "tool_calls" in chat
        return False

    @property
    def _go_abilities(self) -> list[str]:
        template = self.go_template or ""
        thinks = ".Thinking" in template and "<think>" in template
        found = {"tools": ".Tools" in template, "insert": ".Suffix" in template, "thinking": thinks}
        return [ability for ability, has in found.items() if has]

    def _settings(self) -> Iterator[tuple[str, Any]]:
        for key, value in self.options.items():
            for one in value if isinstance(value, list) else [value]:
                yield key, one

    def _modelfile(self) -> str:
        lines = [
            '# Modelfile generated by "ollama show"',
            "# To build a new Modelfile based on this, replace FROM with:",
            f"# FROM {self.name.shown}\n",
            f"FROM {self.file}",
            f"TEMPLATE {_quoted(self.go_template or '{{ .Prompt }}')}",
        ]
        words = {
            "SYSTEM": self.system,
            "RENDERER": self.renderer,
            "PARSER": self.parser,
        }
        lines += [f"{key} {_quoted(text)}" for key, text in words.items() if text]
        lines += [f"PARAMETER {key} {_quoted(str(value))}" for key, value in self._settings()]
        lines += [f"MESSAGE {one['role']} {_quoted(one['content'])}" for one in self.messages]
        return "\n".join(lines) + "\n"


class ModelStore:
    """Ollama's folder of models. Not found is None; what is broken raises ``OSError`` or ``ValueError``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> StoredModel | None:
        """The model of this name, in letters of any case. Raises ``InvalidNameError``."""
        wanted = ModelName.parse(name)
        return next((one for one in self.all() if _same(one.name, wanted)), None)

    def all(self) -> list[StoredModel]:
        """Every model, the newest first."""
        manifests = (self._folder / "manifests").glob("*/*/*/*")
        return sorted(map(self._read, manifests), key=lambda one: one.modified, reverse=True)

    def blob(self, digest: str) -> Path:
        """Where a layer lies, or would lie."""
        return self._folder / "blobs" / digest.replace(":", "-")

    def add_blob(self, content: bytes) -> str:
        """Keep a layer; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self.blob(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return digest

    def create(self, name: str, body: Mapping[str, Any]) -> None:
        """Make a model from a file or from another model (docs/api.md, "Create a Model").

        Raises ``InvalidNameError``, or ``LookupError`` for what it is to be made from.
        """
        base = self.find(body["from"]) if "from" in body else None
        if base is None and "from" in body:
            raise LookupError(f"model '{body['from']}' not found")
        digests = [*body.get("files", {}).values()]
        if base is None and not digests:
            raise LookupError("neither 'from' or 'files' was specified")
        file = base.file if base else self.blob(digests[0])
        head = read_head(file)
        config = {
            "model_format": "gguf",
            "model_family": head.architecture,
            "model_families": [head.architecture],
            "model_type": human_number(head.parameters),
            "file_type": head.quantisation,
        }
        of_base = (
            {"renderer": base.config.get("renderer"), "parser": base.config.get("parser")}
            if base
            else {}
        )
        own = {key: body[key] for key in ("renderer", "parser") if body.get(key)}
        config |= {key: value for key, value in (of_base | own).items() if value}
        options = {**(base.options if base else {}), **body.get("parameters", {})}
        texts = {
            "template": body.get("template") or (base.go_template if base else None),
            "system": body.get("system") or (base.system if base else None),
            "params": json.dumps(options) if options else None,
            "messages": json.dumps(body.get("messages") or (list(base.messages) if base else [])),
        }
        layers = [
            {
                "mediaType": f"{LAYER}model",
                "digest": file.name.replace("-", ":", 1),
                "size": file.stat().st_size,
            }
        ]
        for kind, text in texts.items():
            if text and text != "[]":
                layers.append(self._layer(f"{LAYER}{kind}", text))
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._layer(
                "application/vnd.docker.container.image.v1+json", json.dumps(config)
            ),
            "layers": layers,
        }
        path = self._manifest(ModelName.parse(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    def remove(self, model: StoredModel) -> None:
        """Take a model away; its layers stay, for others may share them."""
        self._manifest(model.name).unlink()

    def _manifest(self, name: ModelName) -> Path:
        return self._folder / "manifests" / name.host / name.namespace / name.model / name.tag

    def _layer(self, media_type: str, text: str) -> dict[str, Any]:
        content = text.encode()
        return {
            "mediaType": media_type,
            "digest": self.add_blob(content),
            "size": len(content),
        }

    def _read(self, path: Path) -> StoredModel:
        content = path.read_bytes()
        manifest = json.loads(content)
        layers = {layer["mediaType"].removeprefix(LAYER): layer for layer in manifest["layers"]}

        def text(kind: str) -> str | None:
            return self.blob(layers[kind]["digest"]).read_text() if kind in layers else None

        config = manifest["config"]
        sizes = (layer["size"] for layer in (config, *manifest["layers"]))
        return StoredModel(
            ModelName(*path.parts[-4:]),
            hashlib.sha256(content).hexdigest(),
            sum(sizes),
            path.stat().st_mtime,
            self.blob(layers["model"]["digest"]),
            json.loads(self.blob(config["digest"]).read_text()),
            text("template"),
            text("system") or "",
            json.loads(text("params") or "{}"),
            tuple(json.loads(text("messages") or "[]")),
        )


def human_number(number: int) -> str:
    """A large number as Ollama writes it (format/format.go)."""
    for unit, size, digits in (("B", 1e9, 1), ("M", 1e6, 2)):
        if number >= size:
            value = number / size
            return f"{value:.{0 if value.is_integer() else digits}f}{unit}"
    return f"{number / 1e3:.0f}K" if number >= 1e3 else str(number)


def go_time(seconds: float) -> str:
    """A time as Go writes it: RFC 3339 with nanoseconds."""
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}789Z"


def _same(one: ModelName, other: ModelName) -> bool:
    return one.shown.lower() == other.shown.lower()


def _chat_abilities(template: str) -> list[str]:
    tools = "tools" in template or "tool_call" in template
    thinks = "<think>" in template and "</think>" in template
    return [ability for ability, has in {"tools": tools, "thinking": thinks}.items() if has]


def _quoted(text: str) -> str:
    """A value in a Modelfile (parser/parser.go)."""
    if "\n" not in text and text.strip(" ") == text:
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _go_literal(value: object) -> str:
    """A setting as Go's ``%#v`` writes it."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case bool():
            return str(value).lower()
        case int() | float() if value >= 1e6 and value == int(value):
            digits = str(int(value))
            mantissa = f"{digits[0]}.{digits[1:]}".rstrip("0").rstrip(".")
            return f"{mantissa}e+{len(digits) - 1:02}"
        case float() if value.is_integer():
            return str(int(value))
    return str(value)
