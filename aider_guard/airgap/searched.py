"""The domains in which the resolvers of this system look for short names (resolv.conf(5))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_PATH: Final = Path("/etc/resolv.conf")


def search_domains(
    environment: Mapping[str, str] = os.environ, path: Path = _PATH
) -> frozenset[str]:
    """All that a program may take, in small letters: those of the file, of the environment, and this machine's own."""
    found = [*environment.get("LOCALDOMAIN", "").split(), *_in_file(path)]
    found.append(socket.gethostname().partition(".")[2])
    plain = (domain.strip(".").lower() for domain in found)
    return frozenset(domain for domain in plain if domain)


def _in_file(path: Path) -> Iterator[str]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return  # without the file there are none
    for line in text.splitlines():
        keyword, *domains = line.split() or [""]
        if keyword in {"search", "domain"}:
            yield from domains
