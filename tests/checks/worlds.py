"""Facts to check, made from what matters in a test; everything else is as on a machine where all is fine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.architecture import Architecture
from aider_guard.core.findings import Finding, Severity
from aider_guard.core.fit import Fit, Need
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.server_report import (
    InstalledModel,
    ModelFacts,
    ModelMissing,
    ServerProcess,
    ServerReport,
)
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.facts import Facts

GIB = 1 << 30
MODEL = "qwen3:8b"
MAIN = f"ollama_chat/{MODEL}"
ROOT = "/repo"
NO = Unavailable("no answer")
QWEN = Architecture(
    name="qwen3",
    layers=36,
    embedding_length=4096,
    heads=(32,) * 36,
    kv_heads=(8,) * 36,
    key_length=128,
    value_length=128,
    vocabulary=151936,
    trained_tokens=40960,
)


def role(job: Any, model: str, source: str = "", **more: Any) -> Role:
    """A role with its model, and the source of that."""
    return Role(job, model, asked=more.pop("asked", model), source=source, **more)


def same(model: str = MAIN, source: str = "--model on the command line") -> tuple[Role, ...]:
    """One model for every role, as Aider takes it when only the main one is named."""
    return (
        role("main", model, source),
        role("editor", model, "the main model"),
        role("weak", model, "the main model"),
    )


def settings(*roles: Role, **more: Any) -> AiderSettings:
    """Aider's settings with everything off that would be worth a finding."""
    used = roles or same()
    quiet: dict[str, Any] = {
        "version": "0.86.2",
        "git_root": ROOT,
        "detect_urls": False,
        "check_update": False,
        "analytics": False,
        "show_release_notes": False,
        "model": used[0].model,
    }
    return AiderSettings(roles=used, **{**quiet, **more})


def variable(name: str, value: str = "", source: str = "the environment") -> Variable:
    """An environment variable of Aider's."""
    return Variable(name, source, value)


def model(name: str = MODEL, **more: Any) -> ModelFacts:
    """A model that Ollama has, under its exact tag."""
    known: dict[str, Any] = {
        "name": name,
        "resolved": name,
        "size_bytes": 5 * GIB,
        "trained_tokens": 40960,
        "architecture": QWEN,
        "blob": f"sha256-{name}",
    }
    return ModelFacts(**{**known, **more})


def installed(name: str = MODEL, **more: Any) -> InstalledModel:
    """An entry of the list of models."""
    return InstalledModel(name, 5 * GIB, "", **more)


def process(name: str = "ollama", **variables: str) -> ServerProcess:
    """The server's process with its settings."""
    return ServerProcess(812, name, "ollama", dict(variables), "process")


def server(*models: ModelFacts | ModelMissing, **more: Any) -> ServerReport:
    """A current Ollama on this machine, its cloud switched off, that knows the models."""
    known: dict[str, Any] = {
        "base": "http://127.0.0.1:11434",
        "is_local": True,
        "version": "0.31.0",
        "installed": (installed(),),
        "loaded": ModelsReading((), 0.0),
        "cloud_disabled": True,
        "process": process(),
        "models": {each.name: each for each in models or (model(),)},
    }
    return ServerReport(**{**known, **more})


def fitting(**more: Any) -> Fit:
    """One model that fits."""
    known: dict[str, Any] = {
        "num_ctx": 16384,
        "needs": (Need(MODEL, 5 * GIB, 2 * GIB, GIB // 2, GIB // 2),),
        "vram_bytes": 15 * GIB,
        "fits": True,
        "alone": True,
        "largest_together": 32768,
        "largest_alone": 32768,
    }
    return Fit(**{**known, **more})


FINE = Facts(
    config=Config(),
    settings=settings(),
    server=server(),
    window_tokens=16384,
    fit=fitting(),
    state_free_bytes=20 * GIB,
    aider_script="/usr/bin/aider",
)

ALWAYS = {
    *("aider", "ollama", "fit", "window-unpinned", "ollama-runtime", "calls-home"),
    "ollama-host-cache",
}
"""The findings on a machine on which all is fine."""


def world(*roles: Role, **more: Any) -> Facts:
    """Facts with these roles; *more* replaces facts, and settings of Aider where it names those."""
    facts = {name: more.pop(name) for name in Facts.__dataclass_fields__ if name in more}
    if "settings" not in facts:
        facts["settings"] = settings(*roles, **more)
    return replace(FINE, **facts)


def no_model(**more: Any) -> Facts:
    """Facts of a user who named no model and has no key."""
    return world(settings=replace(settings(), roles=(), model=None), **more)


def by_id(facts: Facts, id: str) -> list[Finding]:  # noqa: A002  # the field's name
    """The findings with this id."""
    return [finding for finding in examine(facts) if finding.id == id]


def finding_of(facts: Facts, id: str) -> Finding:  # noqa: A002  # the field's name
    """The only finding with this id."""
    (finding,) = by_id(facts, id)
    return finding


def notable(facts: Facts) -> set[tuple[Severity, str]]:
    """Severity and id of the findings that are not there always."""
    return {
        (finding.severity, finding.id)
        for finding in examine(facts)
        if finding.id not in ALWAYS or finding.severity != "info"
    }
