"""Checks the Ollama server: whether it answers, which process it is, and how it runs models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aider_guard.checks.runtime import is_relay, set_variable
from aider_guard.core.findings import Finding, info, unknown, warn
from aider_guard.core.messages import count
from aider_guard.core.ollama_versions import UNKNOWN_ERA, era_of
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServerProcess, ServerReport
from aider_guard.launch import ollama_address
from aider_guard.launch.facts import NOT_ASKED, Facts
from aider_guard.launch.places import base_url
from aider_guard.launch.server_runtime import fills_memory, is_on, runtime_of
from aider_guard.ollama.names import display_base

_FEATURES = ("OLLAMA_NUM_PARALLEL", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_FLASH_ATTENTION")


def availability(facts: Facts) -> Iterator[Finding]:
    """Whether Ollama answers, its version and era, and the process that holds its port."""
    match facts.server:
        case (
            Unavailable(reason) | ServerReport(version=Unavailable(reason), installed=Unavailable())
        ):
            is_unused = ollama_address.is_unused(facts)
            if facts.server == NOT_ASKED or ollama_address.is_forbidden(facts) or is_unused:
                return
            shown = display_base(base_url(facts))
            what = f"Ollama does not answer at {shown} as it should"
            helps = facts.server.helps if isinstance(facts.server, ServerReport) else ""
            yield warn("ollama-unread", what, reason, helps or f"curl {shown}/api/version")
        case ServerReport() as report:
            where = "local" if report.is_local else "on another machine"
            name = "answers"
            if isinstance(report.version, str):
                name = report.version
                if era_of(report.version) is UNKNOWN_ERA:
                    name = f"of an unknown version ({report.version}, as a build from source)"
            what = f"Ollama {name} at {report.base}, {where}"
            yield info("ollama", what, _holder(report.process))
            yield from _port(report)


def _holder(process: ServerProcess | Unavailable) -> str:
    if isinstance(process, Unavailable):
        return process.reason
    user = process.user or "an unknown user"
    if not process.pid:
        return f"a process of {user}"
    return f"{'most likely ' if process.inferred else ''}process {process.pid}, {process.name}, of {user}"


def _port(report: ServerReport) -> Iterator[Finding]:
    process = report.process
    if isinstance(process, Unavailable) or not process.pid or "ollama" in process.name.lower():
        return
    name = process.name or "a process without a name"
    if is_relay(name):
        what = f"Ollama runs in a container or a virtual machine: {name} holds its port"
        yield info("ollama-port", what, _holder(process))
        return
    what = f"{name} holds Ollama's port, so the models may run on another machine"
    fix = f"find out where process {process.pid} forwards to before you send code to it"
    yield warn("ollama-port", what, _holder(process), fix)


def runtime_settings(facts: Facts) -> Iterator[Finding]:
    """Parallel requests, KV cache and flash attention: one finding for all, and one for each that costs memory."""
    if isinstance(facts.server, Unavailable) or isinstance(facts.server.version, Unavailable):
        return
    process = facts.server.process
    settings = process if isinstance(process, Unavailable) else process.settings
    if isinstance(settings, Unavailable):
        what = "how Ollama runs models cannot be read"
        features = "(parallel requests, KV cache, flash attention)"
        fix = "look for 'server config' in its log: journalctl -u ollama, or where it was started"
        yield unknown("ollama-runtime", f"{what} {features}", settings.reason, fix)
        return
    source = "" if isinstance(process, Unavailable) else process.settings_from
    yield _runtime(facts.server, settings, source)
    slots = runtime_of(facts.server).parallel
    if slots > 1:
        what = f"Ollama keeps a KV cache for {slots} requests at once; Aider sends one at a time"
        evidence = f"OLLAMA_NUM_PARALLEL={settings['OLLAMA_NUM_PARALLEL'].strip()}"
        yield warn(
            "ollama-parallel", what, evidence, set_variable(facts, "OLLAMA_NUM_PARALLEL", "1")
        )
    yield from _kv_cache(facts, facts.server, settings)


def _runtime(report: ServerReport, settings: Mapping[str, str], source: str) -> Finding:
    runtime = runtime_of(report)
    flash, parallel = "left to Ollama", "parallel requests left to Ollama"
    if settings.get("OLLAMA_FLASH_ATTENTION"):
        flash = "on" if runtime.flash_attention else "off"
    if settings.get("OLLAMA_NUM_PARALLEL") or not fills_memory(report.version):
        parallel = count(runtime.parallel, "parallel request")
    what = f"KV cache {runtime.kv_type}, flash attention {flash}, {parallel}"
    named = [f"{name}={settings[name]}" for name in _FEATURES if settings.get(name)]
    evidence = ", ".join(named) or "none of these variables is set"
    return info("ollama-runtime", what, evidence + (f" (read from its {source})" if source else ""))


def _kv_cache(facts: Facts, report: ServerReport, settings: Mapping[str, str]) -> Iterator[Finding]:
    kind = settings.get("OLLAMA_KV_CACHE_TYPE", "").strip()
    if kind in {"", "f16", "f32", "bf16"}:
        return
    flash = settings.get("OLLAMA_FLASH_ATTENTION", "").strip()
    engine = era_of(report.version).engine
    off = not is_on(flash) if flash else engine == "A"
    if off:
        # Up to 0.24 Ollama warns and takes f16; from 0.30 on llama.cpp refuses to start the model.
        then = "models do not load" if engine == "C" else "f16 is used, twice the size or more"
        what = f"a KV cache of {kind} needs flash attention, which is off: {then}"
        fix = set_variable(facts, "OLLAMA_FLASH_ATTENTION", "1")
        yield warn("ollama-kv-cache", what, f"OLLAMA_KV_CACHE_TYPE={kind}", fix)
