"""Reads the names of Ollama's models: their full form, one form for comparing, and whether two names mean one model.

The rules are Ollama's own (types/model/name.go, ParseNameBare and DisplayShortest): a name is
``[scheme://][host/][namespace/]model[:tag]``, where the host is ``registry.ollama.ai``, the namespace ``library`` and
the tag ``latest`` unless the name says otherwise. Names are compared without regard to case.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HOST: Final = "registry.ollama.ai"
NAMESPACE: Final = "library"
TAG: Final = "latest"
_LOCAL: Final = re.compile(r":local$", re.IGNORECASE)
_CLOUD: Final = re.compile(r":cloud$|:[^/:]*-cloud$", re.IGNORECASE)


class ModelName(NamedTuple):
    """The four parts of a name, Ollama's defaults filled in, each in the case in which it was written."""

    host: str
    namespace: str
    model: str
    tag: str


def parse_name(name: str) -> ModelName:
    """The parts of a name. Any text has some; whether Ollama would accept them is not checked."""
    rest, tag = name.strip().rpartition("://")[2], TAG
    if rest.rfind(":") > rest.rfind("/"):  # another colon is that of the host's port
        rest, _, tag = rest.rpartition(":")
    *before, model = rest.rsplit("/", 2)
    host, namespace = [HOST, NAMESPACE][: 2 - len(before)] + before
    return ModelName(host, namespace, model, tag)


def full_name(name: str) -> str:
    """A model's name as Ollama lists it: with its tag, without a default host and namespace, in its own case."""
    parts = parse_name(name)
    short = f"{parts.model}:{parts.tag}"
    if parts.host.lower() != HOST:
        return f"{parts.host}/{parts.namespace}/{short}"
    return short if parts.namespace.lower() == NAMESPACE else f"{parts.namespace}/{short}"


def canonical_name(name: str) -> str:
    """One form of all spellings of a name, for keys: ``Qwen3`` and ``library/qwen3:latest`` are ``qwen3:latest``.

    ``:local`` stays in it, because Ollama before 0.18 reads that as a tag: see `without_local`.
    """
    return full_name(name.lower())


def without_local(name: str) -> str:
    """The name without a ``:local`` at its end, which Ollama 0.18 and later take for "run it on this machine" and not
    for a part of the name (internal/modelref/modelref.go).
    """
    return _LOCAL.sub("", name.strip())


def same_model(left: str, right: str) -> bool:
    """Whether two names mean one Ollama model. An empty name means none."""
    return bool(left) and canonical_name(without_local(left)) == canonical_name(
        without_local(right)
    )


def is_cloud_name(name: str) -> bool:
    """Whether Ollama (0.18 and later) would send requests for this name to its cloud unasked.

    That is any name whose tag is ``cloud`` or ends in ``-cloud`` (internal/modelref/modelref.go).
    """
    return _CLOUD.search(name.strip()) is not None
