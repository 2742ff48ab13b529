"""Findings of the checks: their severities, how they are made, and the list of all their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["stop", "warn", "info", "unknown"]
SEVERITIES: tuple[Severity, ...] = ("stop", "warn", "unknown", "info")


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``id`` never changes; ``fix`` is a line to paste, or a sentence where no command helps.

    A ``stop`` ends a launch: code would leave the machine, or nothing could work. A ``warn`` should be looked at,
    an ``info`` needs no action, and an ``unknown`` says what could not be checked, and why.
    """

    id: str
    severity: Severity
    what: str = field(metadata={"journal": False})
    evidence: str = field(default="", metadata={"journal": False})
    fix: str = field(default="", metadata={"journal": False})


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings sorted by severity, the worst first; their order within one severity stays."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def doctor_status(findings: Iterable[Finding]) -> int:
    """The exit status of ``doctor``: 1 with a ``stop`` or ``warn``, else 2 with an ``unknown``, else 0."""
    severities = {finding.severity for finding in findings}
    if severities & {"stop", "warn"}:
        return 1
    return 2 if "unknown" in severities else 0


# Making findings.

GUARDED = "in a guarded session"


def stop(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """A finding that ends a launch: code would leave the machine, or nothing could work."""
    return Finding(id, "stop", what, evidence, fix)


def warn(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """A finding to look at."""
    return Finding(id, "warn", what, evidence, fix)


def info(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """A finding that needs no action."""
    return Finding(id, "info", what, evidence, fix)


def unknown(id: str, what: str, evidence: str = "", fix: str = "") -> Finding:  # noqa: A002  # the field's name
    """A finding about something that could not be checked."""
    return Finding(id, "unknown", what, evidence, fix)


def listed(words: Iterable[str], at_most: int = 4) -> str:
    """A list of words in a sentence, each once: ``a, b and c``; a long list ends with the number of the rest."""
    row = list(dict.fromkeys(words))
    if len(row) > at_most:
        row = [*row[:at_most], f"{len(row) - at_most} more"]
    return " and ".join(part for part in (", ".join(row[:-1]), row[-1]) if part) if row else ""


def verb(words: Iterable[str], singular: str, plural: str) -> str:
    """The form of a verb or a pronoun for these words."""
    return singular if len(set(words)) == 1 else plural


# The ids of all findings, which never change, with their subjects.

LEAKS: Mapping[str, str] = {
    "default-model": "no model is named, so Aider takes one of the cloud whose key it finds",
    "model-from-env": "`AIDER_MODEL`, in a `.env` or the environment, names a model of a cloud",
    "side-model": "the editor or weak model is one of a cloud, the main model is not",
    "model-settings": "an entry in `.aider.model.settings.yml` names a model or an address of a cloud",
    "alias": "an alias replaces the named model by one of a cloud",
    "switch-model": "with a cloud's key set, `/model` can switch to it",
    "ollama-cloud": "Ollama itself would pass the requests on to its cloud",
    "remote-ollama": "Ollama is on another machine",
    "http-proxy": "a proxy would carry what Aider sends to Ollama",
    "litellm-proxy": "a LiteLLM proxy would get the requests that are for Ollama",
    "copilot-token": "a GitHub Copilot token makes Aider ask GitHub before each request",
    "openrouter-oauth": "Aider's login to OpenRouter left a key",
    "voice": "with OpenAI's key set, `/voice` sends what you say to OpenAI",
    "web": "Aider offers to fetch addresses that you type",
    "model-flag": "an old flag such as `--4o` or `--sonnet` names a model of a cloud",
    "fallback": "when the weak model fails, the main model gets its work, and the other way round",
    "cache-pings": "Aider repeats requests to keep a cloud's cache warm",
    "user-commands": "your own programs run in a session and may connect to any address",
}
"""The 18 ways in which code can leave the machine of a user who means to use Ollama."""

ELSEWHERE = frozenset({"remote-ollama", "remote-server"})
"""The ids of findings (``info``) on a server of the user's on another machine, which the code goes to."""
LEAVES = frozenset({*LEAKS, "cloud-model"})
"""The ids with which a ``stop`` means that code would leave the machine."""

CHECKS: Mapping[str, str] = {
    "aider": "which Aider was found",
    "aider-missing": "no Aider can be started",
    "aider-old": "this Aider is older than what the guard supports",
    "aider-untried": "the guard was never tried with this version of Aider",
    "aider-settings": "Aider cannot read one of its settings, or did not report them",
    "air-gap": "the layer of the air gap, and why it is not a better one",
    "ollama": "which Ollama answers, and where",
    "ollama-unread": "Ollama does not answer, or in an unknown form",
    "ollama-port": "a program that is not Ollama holds Ollama's port",
    "ollama-parallel": "Ollama keeps a KV cache for several requests at once",
    "ollama-runtime": "how Ollama runs models: KV cache, flash attention, parallel requests",
    "ollama-kv-cache": "the KV cache cannot be of the type that was set",
    "ollama-holes": "this version of Ollama has known holes",
    "ollama-network": "other machines can reach Ollama",
    "ollama-host-cache": "old prompts may take much of the main memory",
    "ollama-overhead": "memory that was to be kept free of each GPU is not",
    "ollama-processors": "Ollama may use fewer processors than it starts threads for",
    "sampling": "the model's own file has it avoid repetition",
    "ollama-cloud-switch": "Ollama's own cloud is not switched off",
    "no-model": "no model is named anywhere",
    "cloud-model": "a model of a cloud was asked for",
    "cloud-keys": "keys or tokens of clouds are set",
    "ollama-openai": "a model of Ollama is asked through its interface with OpenAI's protocol",
    "local-server": "a model runs on another server on this machine",
    "remote-server": "a model runs on another server in your network",
    "model-name": "Ollama accepts no such name for a model",
    "model-missing": "Ollama does not have a model under this tag",
    "model-tag": "a name without its tag, and what it means",
    "model-template": "the model's template leaves out Aider's instructions",
    "model-unread": "Ollama did not describe a model, or did not list them",
    "model-prefix": "the name lacks `ollama_chat/`, or has `ollama/` where that is better",
    "window-pinned": "your own settings fix the window",
    "window-unpinned": "nothing but the guard fixes the window",
    "window-differs": "two names of one model have different windows",
    "window-contested": "another running session fixes another window for the model",
    "window-too-long": "the window is longer than the model was trained for",
    "gpu": "a GPU of this machine, its memory, and whether it shares the main memory",
    "gpu-unread": "a GPU of this machine cannot be read",
    "fit": "whether the models fit into memory with this window",
    "large-repository": "Aider reads very many files for its map",
    "map-tokens": "the repository map takes much of the window",
    "history-tokens": "the chat history may take much of the window",
    "history-restored": "the whole chat history is read at the start",
    "auto-test": "the output of the tests goes into the window",
    "calls-home": "the requests that Aider makes by itself",
    "tls-unchecked": "certificates are not checked",
    "disk-space": "the free disk space for the journal",
}
"""All other findings."""

IDS: Mapping[str, str] = {**LEAKS, **CHECKS}
