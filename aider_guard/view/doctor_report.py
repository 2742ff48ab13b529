"""Lays out ``doctor --report``: versions, settings and findings as a block of Markdown to paste, without secrets."""

from __future__ import annotations

import getpass
import locale
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from aider_guard import __version__
from aider_guard.config import SETTINGS, Config
from aider_guard.core.egress import Place
from aider_guard.core.findings import Finding
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.core.redaction import PrivateWords, redact, secrets_of
from aider_guard.launch.facts import Facts
from aider_guard.ollama.names import connectable_base
from aider_guard.ollama.server_process import is_wsl

_LABEL_COLUMNS = 14
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def report_text(
    facts: Facts,
    findings: Sequence[Finding],
    *,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> str:
    """The report: a fenced block, in which nothing of what was read can become a link, a picture or a mention.

    *root* is where the files of the operating system are looked for.
    """
    rows = [*_versions(facts, environment, root), *_changed(facts.config)]
    lines = [f"{label:<{_LABEL_COLUMNS}}{value}" for label, value in rows]
    for finding in findings:
        lines += ["", f"{finding.severity} {finding.id}: {finding.what}"]
        lines += [f"  seen: {finding.evidence}"] if finding.evidence else []
        lines += [f"  fix: {finding.fix}"] if finding.fix else []
    private = private_words(facts, environment)
    shown = (redact(printable(" ".join(line.split("\n"))), private) for line in lines)
    return "".join(
        f"{line}\n" for line in ("```text", *(line.replace("```", "'''") for line in shown), "```")
    )


def private_words(facts: Facts, environment: Mapping[str, str]) -> PrivateWords:
    """What of this user, this machine and these facts the report must not show."""
    named = [facts.config.ollama, *facts.environment.values()]
    if not isinstance(facts.settings, Unavailable):
        named += [
            facts.settings.ollama_api_base,
            *(each.value for each in facts.settings.addresses),
        ]
    named += [environment.get(name, "") for each in _PROXIES for name in (each, each.upper())]
    hosts = {_host_in(address) for address in named} | {
        each.host for each in facts.config.allow if isinstance(each, Place)
    }
    machine = socket.gethostname()
    user = ""
    with suppress(KeyError, OSError):  # a user without an entry in the list of users
        user = getpass.getuser()
    return PrivateWords(
        home=environment.get("HOME", ""),
        user=user,
        hosts=(machine, machine.partition(".")[0], *sorted(filter(None, hosts))),
        secrets=secrets_of(environment),
    )


def _host_in(address: str) -> str:
    with suppress(ValueError):  # what is no address has no host
        return urlsplit(connectable_base(address)).hostname or ""
    return ""


def _versions(
    facts: Facts, environment: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    implementation = platform.python_implementation()
    yield "aider-guard", f"{__version__}, {implementation} {platform.python_version()}"
    yield "libraries", ", ".join(_libraries()) or "not known"
    yield "system", _system(root)
    settings, server = facts.settings, facts.server
    if isinstance(settings, Unavailable):
        yield "Aider", facts.aider_problem or settings.reason
    else:
        yield "Aider", f"{settings.version}, Python {settings.python or 'not known'}"
        yield "litellm", _version_beside(settings.tokenizers)
    version = server if isinstance(server, Unavailable) else server.version
    yield "Ollama", version.reason if isinstance(version, Unavailable) else version
    yield "GPU driver", gpu_driver(root)
    yield "air gap", getattr(facts.air_gap, "layer", "not tried")
    yield "terminal", _terminal(environment)


def _libraries() -> Iterator[str]:
    """The installed versions of what the guard requires."""
    with suppress(metadata.PackageNotFoundError):  # run from a source tree
        for line in metadata.requires("aider-guard") or ():
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            with suppress(metadata.PackageNotFoundError):  # one for other versions of Python
                yield f"{name} {metadata.version(name)}"


def _version_beside(tokenizers: str) -> str:
    """The version of the litellm that has its files here: it is installed two folders above them."""
    if tokenizers:
        folder = str(Path(tokenizers).parents[2])
        for found in metadata.distributions(name="litellm", path=[folder]):
            return found.version
    return "not known"


def _system(root: Path) -> str:
    name = platform.system()
    with suppress(OSError):  # not on Linux
        lines = (root / "etc/os-release").read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = dict(line.split("=", 1) for line in lines if "=" in line)
        name = pairs.get("PRETTY_NAME", name).strip("\"'")
    kinds = ["in WSL"] if is_wsl(root) else []
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        kinds.append("in a container")
    init = "" if (root / "run/systemd/system").is_dir() or name == "Darwin" else "without systemd"
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return ", ".join(filter(None, (name, kernel, *kinds, init)))


def gpu_driver(root: Path = Path("/")) -> str:
    """The version of NVIDIA's driver as the kernel gives it, which cannot hang; the others are part of the kernel."""
    names = {"nvidia": "NVIDIA", "amdgpu": "amdgpu", "xe": "xe", "i915": "i915"}
    found = []
    for module, name in names.items():
        folder = root / "sys/module" / module
        if folder.is_dir():
            version = "of the kernel"
            with suppress(OSError):  # a driver that has no version of its own
                version = (folder / "version").read_text(encoding="utf-8").strip()
            found.append(f"{name} {version}")
    return ", ".join(found) or "none found"


def _terminal(environment: Mapping[str, str]) -> str:
    size = shutil.get_terminal_size()
    program = f"{environment.get('TERM_PROGRAM', '')} {environment.get('TERM_PROGRAM_VERSION', '')}"
    inside = [name.lower() for name in ("TMUX", "STY", "SSH_CONNECTION") if environment.get(name)]
    parts = [environment.get("TERM") or "TERM is not set", program.strip(), *inside]
    return ", ".join(
        filter(None, (*parts, f"{size.columns}x{size.lines}", locale.getpreferredencoding(False)))
    )


def _changed(config: Config) -> Iterator[tuple[str, str]]:
    """The settings that are not at their default; places that are let through are only counted."""
    for name in SETTINGS:
        value, default = (getattr(each, name.replace("-", "_")) for each in (config, Config()))
        if value != default:
            yield "setting", f"{name} = {f'{len(value)} places' if name == 'allow' else value}"
