"""Reads the names of Ollama's models: their full form, one form for comparing, and where each says that it runs.

The rules are Ollama's own (types/model/name.go, ParseName, IsValid and DisplayShortest): a name is
``[scheme://][host/][namespace/]model[:tag]``, where the host is ``registry.ollama.ai``, the namespace ``library`` and
the tag ``latest`` unless the name says otherwise. Names are compared without regard to case. Ollama 0.18 and later
first take what follows the last colon for the place where the model runs (internal/modelref/modelref.go, ParseRef).
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

HOST: Final = "registry.ollama.ai"
NAMESPACE: Final = "library"
TAG: Final = "latest"
_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's ``strings.TrimSpace`` removes (unicode.IsSpace). Python's ``str.strip`` removes four characters more."""
_WORD: Final = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_VALID_PARTS: Final = (
    re.compile("[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    re.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    re.compile(_WORD),
    re.compile(_WORD),
)
"""What Ollama takes as a host, a namespace, a model and a tag (types/model/name.go, isValidPart)."""


class ModelName(NamedTuple):
    """The four parts of a name, Ollama's defaults filled in, each in the case in which it was written."""

    host: str
    namespace: str
    model: str
    tag: str


class NameAndPlace(NamedTuple):
    """A name without what says where its model runs, and that place; "" where the name does not say it."""

    name: str
    place: Literal["", "cloud", "local"]


def split_place(name: str) -> NameAndPlace:
    """Split a name as Ollama 0.18 and later do (ParseRef): space around the name, and around what follows the last
    colon, does not count, nor does the case.
    """
    name = name.strip(_SPACE)
    before, colon, ending = name.rpartition(":")
    ending = ending.strip(_SPACE)
    lowered = ending.lower()
    if colon and lowered == "cloud":
        return NameAndPlace(before, "cloud")
    if colon and lowered == "local":
        return NameAndPlace(before, "local")
    if colon and lowered.endswith("-cloud") and "/" not in ending:
        return NameAndPlace(f"{before}:{ending[: -len('-cloud')]}", "cloud")
    return NameAndPlace(name, "")


def parse_name(name: str) -> ModelName:
    """The parts of a name. Any text has some; `is_valid_name` tells whether Ollama accepts them."""
    rest, tag = name.strip(_SPACE), TAG
    if rest.rfind(":") > rest.rfind("/"):  # another colon is that of a scheme or of the host's port
        rest, _, tag = rest.rpartition(":")
    *before, model = rest.rsplit("/", 2)
    host, namespace = [HOST, NAMESPACE][: 2 - len(before)] + before
    if "://" in host:
        host = host.rpartition("://")[2] or HOST
    return ModelName(host, namespace, model, tag)


def is_valid_name(name: str) -> bool:
    """Whether Ollama accepts a name at all; it answers others with an error, whatever is installed."""
    base, place = split_place(name)
    if place and split_place(base).place:
        return False  # ":local:cloud": Ollama takes one place at most
    if base != base.strip(_SPACE) or base.count("://") > 1:
        return False
    return all(
        valid.fullmatch(part) for valid, part in zip(_VALID_PARTS, parse_name(base), strict=True)
    )


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
    for a part of the name.
    """
    base, place = split_place(name)
    return base if place == "local" else name.strip(_SPACE)


def same_model(left: str, right: str) -> bool:
    """Whether two names mean one Ollama model. An empty name means none."""
    return bool(left) and canonical_name(without_local(left)) == canonical_name(
        without_local(right)
    )


def is_cloud_name(name: str) -> bool:
    """Whether Ollama (0.18 and later) would send requests for this name to its cloud unasked: what follows its last
    colon is ``cloud`` or ends in ``-cloud``.
    """
    return split_place(name).place == "cloud"
