"""A new user's account on this machine: a user of its own with an empty home, and the private programs installed.

Where the system lets its users make user namespaces, the account is a user id of one (user_namespaces(7)) with a line
of its own in /etc/passwd there. All files of the user who runs the tests are the new user's then, and no capability is:
what is shared needs no copy. Elsewhere only the home is new.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.people import Onlooker

from aider_guard.demo.layout import PART_FOLDERS, cache_folder

_USER_ID = 54321
_CAP_SECONDS = 180.0
_TAKEN_ALONG = ("PIP_", "SSL_CERT_", "http_proxy", "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE")
"""How the variables begin that say where packages come from: a machine's, not a user's."""
_ENTER = """
mount --bind "$1" /etc/passwd && shift
exec unshare --user --map-user={uid} --map-group={uid} -- "$@"
"""


@dataclass(frozen=True)
class Account:
    """A new user. *enter* is the start of a command line that runs the rest as that user."""

    home: Path
    enter: tuple[str, ...]

    @classmethod
    def make(cls, folder: Path) -> Account:
        """Make the home, with the private programs where ``make demo`` looks for them, as links."""
        home = folder / "home"
        cache = home / ".cache" / "aider-guard"
        cache.mkdir(parents=True)
        for name in PART_FOLDERS:
            if (part := cache_folder() / name).is_dir():
                (cache / name).symlink_to(part)
        users = folder / "passwd"
        line = f"newcomer:x:{_USER_ID}:{_USER_ID}::{home}:/bin/sh\n"
        users.write_text(Path("/etc/passwd").read_text() + line)
        script = _ENTER.format(uid=_USER_ID)
        enter = ("unshare", "-rm", "sh", "-c", script, "enter", str(users))
        tried = subprocess.run([*enter, "id", "-un"], capture_output=True, text=True, check=False)
        return cls(home, enter if tried.stdout == "newcomer\n" else ())

    @property
    def clone(self) -> Path:
        """Where the new user clones the repository."""
        return self.home / "aider-guard"

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What a login gives, with the programs of the clone and of ``~/.local/bin``, and the Python of the tests."""
        machine = {
            name: value for name, value in os.environ.items() if name.startswith(_TAKEN_ALONG)
        }
        own = [self.clone / ".venv" / "bin", self.home / ".local" / "bin"]
        others = [Path(sys.base_prefix) / "bin", *map(Path, os.environ["PATH"].split(os.pathsep))]
        path = [*own, *(folder for folder in others if folder != Path(sys.prefix) / "bin")]
        return {
            **machine,
            "HOME": str(self.home),
            "USER": "newcomer",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "PATH": os.pathsep.join(map(str, path)),
            **more,
        }

    def run(
        self, line: str, folder: Path, more: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a line in a shell that has no terminal; what it prints, both streams together."""
        return subprocess.run(
            [*self.enter, "bash", "-c", line],
            cwd=folder,
            env=self.environment(more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_CAP_SECONDS,
            check=False,
        )

    def at_terminal(self, line: str, folder: Path, more: Mapping[str, str]) -> Onlooker:
        """Run a line in a terminal of the usual size."""
        command: Sequence[str] = (*self.enter, "bash", "-c", f"exec {line}")
        env = self.environment({"AIDER_GUARD_GREETING": "on", **more})  # other tests have it off
        return Onlooker(command, rows=24, columns=80, env=env, cwd=folder)


def quoted(path: Path) -> str:
    """A path as a word of a shell's."""
    return shlex.quote(str(path))
