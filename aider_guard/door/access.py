"""Decides whether a request that is not for text may be passed on, where nothing is to leave the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aider_guard.core.chat import cloud
from aider_guard.core.chat.events import Reason
from aider_guard.core.chat.request import decode_body
from aider_guard.core.chat.types import Upstream
from aider_guard.core.model_names import canonical_name, is_cloud_name, without_local
from aider_guard.core.readings import Unavailable
from aider_guard.door.interfaces import InstalledModels

_NOT_SENT_ON: Final = ("/api/show", "/api/delete")
"""Paths that Ollama answers by itself, also for a stub of a model that runs elsewhere (server/routes.go)."""


@dataclass(frozen=True)
class RefusedRequest:
    """A request that is not passed on: which model or path, and why."""

    what: str
    words: str
    reason: Reason = "forbidden"
    status: int = 403


@dataclass(frozen=True)
class AccessRules:
    """Judges requests one by one, and remembers what was deleted: Ollama would fetch it again from the network."""

    installed: InstalledModels
    _bases: set[tuple[str, str]] = field(default_factory=set, init=False)
    """The models that others were made from in this session, by their server."""
    _deleted: set[tuple[str, str]] = field(default_factory=set, init=False)

    async def judge(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> RefusedRequest | None:
        """Return why a request is not passed on; None when it may be.

        ``body`` is None where it is streamed: such a body may name anything, unless it is a file (a blob).
        """
        if cloud.is_content(path):
            return None
        decoded_body = decode_body(body or b"")
        fields = decoded_body or {}
        if upstream.kind != "ollama" and not cloud.leaves(path):
            return _judge_names(cloud.named_models(path, fields))  # it may be an Ollama
        if words := cloud.unsafe(path, fields):
            return RefusedRequest(next(iter(cloud.named_models(path, fields)), path), words)
        if body is None and method not in ("GET", "HEAD"):
            return RefusedRequest(path, cloud.refused_words("what is too large to be looked at"))
        if decoded_body is None and (body or b"").strip():
            return RefusedRequest(path, "the request cannot be read", status=400)
        return await self._judge_models(upstream, path, fields)

    async def _judge_models(
        self, upstream: Upstream, path: str, fields: Mapping[str, Any]
    ) -> RefusedRequest | None:
        names = cloud.named_models(path, fields)
        if refused := _judge_names(names):
            return refused
        if (invalid := cloud.invalid_name(path, fields)) is not None:
            return RefusedRequest(invalid, "; ".join(cloud.invalid_lines(invalid)), "missing")
        if path == "/api/delete":
            keys = {(upstream.base, _plain(name)) for name in names}
            if keys & self._bases:  # Ollama may build and delete in any order
                return RefusedRequest(names[0], cloud.still_needed(names[0]))
            self._deleted.update(keys)
            return None
        for name in names if path not in _NOT_SENT_ON else ():
            host = await self.installed.host_of(upstream, name)
            if isinstance(host, Unavailable):
                return _not_known(name, host)
            if host:
                return RefusedRequest(name, cloud.refused_words(name), "cloud")
        return await self._judge_building(upstream, fields) if path == "/api/create" else None

    async def _judge_building(
        self, upstream: Upstream, fields: Mapping[str, Any]
    ) -> RefusedRequest | None:
        """Refuse a base that is not there: Ollama would fetch it from the host in its name (server/create.go)."""
        for name in cloud.bases_of(fields):
            host = await self.installed.host_now(upstream, name)
            if isinstance(host, Unavailable):
                return _not_known(name, host)
            key = (upstream.base, _plain(name))
            if host is None or key in self._deleted:
                return RefusedRequest(name, cloud.not_transferred(name))
            self._bases.add(key)
        return None


def _judge_names(names: Sequence[str]) -> RefusedRequest | None:
    for name in filter(is_cloud_name, names):
        return RefusedRequest(name, cloud.refused_words(name), "cloud")
    return None


def _plain(name: str) -> str:
    return canonical_name(without_local(name))


def _not_known(name: str, why: Unavailable) -> RefusedRequest:
    words = f"the model server does not answer: {why.reason}"
    return RefusedRequest(name, words, "down", status=502)
