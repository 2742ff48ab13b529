"""Checks how the server is run: host memory, its address, known holes, settings without effect, limits, sampling."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Final

from aider_guard.core.findings import Finding, info, listed, warn
from aider_guard.core.messages import size
from aider_guard.core.ollama_versions import UNKNOWN_ERA, era_of, release
from aider_guard.core.readings import MemoryReading, RamReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ServerProcess, ServerReport
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import with_ollama
from aider_guard.ollama.names import parse_address

_RELAYS = ("docker", "podman", "rootless", "slirp4netns", "pasta", "wsl", "containerd", "colima")
"""Programs that forward a port of a container or a virtual machine, which is on the same machine."""
_HOLES: Final[tuple[tuple[tuple[int, ...], str], ...]] = (
    ((0, 1, 34), "CVE-2024-37032 (it runs foreign code)"),
    ((0, 4), "CVE-2024-12055 (a crafted model ends it)"),
    ((0, 17, 1), "CVE-2026-7482 (its memory can be read)"),
)
"""The version that closes each hole, and what the hole is (nvd.nist.gov; GHSA-89qx-m49c-8crf, GHSA-x8qc-fggm-mpqg)."""
_CACHE_BYTES = 8 * 2**30
"""The most that llama-server's prompt cache takes of the main memory unless it is told (ollama#18264)."""
_FIT_MARGIN_MIB = 1024
"""What llama.cpp leaves free of each GPU unless it is told (LLAMA_ARG_FIT_TARGET)."""
_NEUTRAL: Final = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def process_of(facts: Facts) -> ServerProcess | None:
    """The server's process, where it is known."""
    process = facts.server.process if isinstance(facts.server, ServerReport) else None
    return process if isinstance(process, ServerProcess) else None


def is_relay(name: str) -> bool:
    """Whether a process forwards the port of a container or a virtual machine."""
    return name.lower().startswith(_RELAYS) or "docker" in name.lower()


def set_variable(facts: Facts, name: str, value: str) -> str:
    """How a variable of the server is set, by how it is run; one's own ``ollama serve`` keeps its other settings."""
    process = process_of(facts)
    assignment = f"{name}={shlex.quote(value)}"
    if isinstance(facts.server, ServerReport) and not facts.server.is_local:
        return f"in the environment of Ollama at {facts.server.base}: {assignment}"
    if process is not None and process.run_by.startswith("systemctl "):
        *user, unit = process.run_by.split()[1:]
        control = " ".join(("systemctl", *user) if user else ("sudo", "systemctl"))
        line = f'Environment="{name}={value}"'
        return f"{control} edit {unit}   # add [Service] and {line}, then: {control} restart {unit}"
    if process is not None and (process.run_by == "container" or is_relay(process.name)):
        return f"start Ollama's container with this flag besides your own: -e {assignment}"
    is_read = process is not None and process.settings_from == "process"
    settings = process.settings if process is not None and is_read else None
    others = settings if isinstance(settings, dict) else {}
    kept = [f"{each}={shlex.quote(text)}" for each, text in others.items() if each != name]
    return " ".join([*kept, assignment, "ollama serve"])


def host_cache(facts: Facts) -> Iterator[Finding]:
    """The prompt cache in main memory, of 8 GiB a model, that nothing bounds (0.30 and later)."""
    process, report = process_of(facts), facts.server
    if (
        process is None
        or not isinstance(report, ServerReport)
        or process.settings_from != "process"
    ):
        return
    settings = process.settings if isinstance(process.settings, dict) else {}
    is_newest = era_of(report.version).engine == "C" and era_of(report.version) is not UNKNOWN_ERA
    if not is_newest or settings.get("LLAMA_ARG_CACHE_RAM"):
        return
    ram = facts.memory.ram if isinstance(facts.memory, MemoryReading) else None
    total = ram.total_bytes if isinstance(ram, RamReading) else 0
    severity = warn if 0 < total < 4 * _CACHE_BYTES else info
    what = f"each loaded model may keep up to {size(_CACHE_BYTES)} of old prompts in main memory"
    evidence = "LLAMA_ARG_CACHE_RAM is not set" + (f"; {size(total)} in all" if total else "")
    yield severity(
        "ollama-host-cache", what, evidence, set_variable(facts, "LLAMA_ARG_CACHE_RAM", "1024")
    )


def reach(facts: Facts) -> Iterator[Finding]:
    """A server that other machines can reach, and versions with known holes."""
    process, report = process_of(facts), facts.server
    if not isinstance(report, ServerReport) or isinstance(report.version, Unavailable):
        return
    address = parse_address(process.bound) if process is not None and process.bound else None
    is_open = not report.is_local or (address is not None and not address.is_loopback)
    version = release(report.version)
    holes = [hole for closed, hole in _HOLES if any(version) and version < closed]
    if holes:
        severity = warn if is_open else info
        what = f"Ollama {report.version} has known holes: {listed(holes)}"
        where = (
            "other machines can reach it" if is_open else "no other machine is known to reach it"
        )
        yield severity("ollama-holes", what, where, "update Ollama to 0.17.1 or later")
    if report.is_local and address is not None and is_open:
        what = "other machines can reach Ollama, which asks for no key, unless a firewall keeps them out"
        fix = set_variable(facts, "OLLAMA_HOST", "127.0.0.1")
        if process is not None and (process.run_by == "container" or is_relay(process.name)):
            fix = "publish the container's port on this machine alone: -p 127.0.0.1:11434:11434"
        yield info("ollama-network", what, f"it listens at {address}", fix)


def without_effect(facts: Facts) -> Iterator[Finding]:
    """``OLLAMA_GPU_OVERHEAD``, which 0.30 and later do not keep free (sched.go); llama.cpp has a margin of its own."""
    process, report = process_of(facts), facts.server
    settings = process.settings if process is not None else None
    if not isinstance(report, ServerReport) or not isinstance(settings, dict):
        return
    text = settings.get("OLLAMA_GPU_OVERHEAD", "").strip()
    overhead = int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0
    era = era_of(report.version)
    if (
        not overhead
        or era.engine != "C"
        or era is UNKNOWN_ERA
        or settings.get("LLAMA_ARG_FIT_TARGET")
    ):
        return
    mib = max(_FIT_MARGIN_MIB, -(-overhead // 2**20))
    what = f"this Ollama does not keep the {size(overhead)} of each GPU free that you asked for"
    fix = set_variable(facts, "LLAMA_ARG_FIT_TARGET", str(mib))
    yield warn("ollama-overhead", what, f"OLLAMA_GPU_OVERHEAD={text}", fix)


def processor_quota(facts: Facts) -> Iterator[Finding]:
    """A control group that lets the server use fewer processors than it starts threads for."""
    process = process_of(facts)
    quota = process.cpu_quota if process is not None else 0.0
    processors = os.cpu_count() or 1
    if not 0 < quota < processors:
        return
    threads = max(1, int(quota))
    what = f"Ollama may use {quota:.3g} of {processors} processors at once, and a thread for each waits for the others"
    fix = f"add num_thread: {threads} to extra_params of the model in .aider.model.settings.yml"
    yield info("ollama-processors", what, "cpu.max of its control group", fix)


def sampling(facts: Facts) -> Iterator[Finding]:
    """Penalties in a model's own file. They stay on at Aider's temperature of 0, and edits must repeat code exactly."""
    if isinstance(facts.server, Unavailable):
        return
    for name in dict.fromkeys(name for _, name in with_ollama(facts)):
        model = facts.server.models.get(name)
        own = model.sampling if isinstance(model, ModelFacts) else {}
        changed = {key: value for key, value in own.items() if value != _NEUTRAL.get(key, value)}
        if changed:
            shown = listed(f"{key} {value:g}" for key, value in changed.items())
            what = (
                f"{name} avoids what it has read or written, and edits have to repeat code exactly"
            )
            neutral = ", ".join(f"{key}: {_NEUTRAL[key]:g}" for key in changed)
            fix = f"add {neutral} to extra_params of the model in .aider.model.settings.yml"
            yield info("sampling", what, f"its own file: {shown}", fix)
