"""The start of a process in a pty: the one place where pexpect is used, and of it only the start.

pexpect's ``interact``, ``send``, ``isalive`` and ``terminate`` lose output, sleep, or block.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import ptyprocess

from aider_guard.errors import LaunchError
from aider_guard.session.terminal import put_size
from aider_guard.signals import INHERITED, all_held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aider_guard.session.terminal import Size

    _PexpectSpawn = pexpect.spawn[bytes]
else:
    _PexpectSpawn = pexpect.spawn


class _Pty(ptyprocess.PtyProcess):  # type: ignore[misc]  # published without types
    """ptyprocess sets rows and columns again after the start, which would wipe the pixels out."""

    def setwinsize(self, rows: int, cols: int) -> None:
        """Do nothing: the child has set the whole size before its program started."""


class _Spawn(_PexpectSpawn):
    """pexpect.spawn with ``pass_fds``, and with a lone command not split at its spaces.

    ``forked`` gets the fork as soon as there is one: pexpect forgets it when its start fails.
    """

    def __init__(
        self,
        argv: Sequence[str],
        pass_fds: Sequence[int],
        forked: list[_Pty],
        **options: Any,
    ) -> None:
        self._argv = list(argv)
        self._pass_fds = tuple(pass_fds)
        self._forked = forked
        super().__init__(argv[0], ["see _spawnpty"], timeout=None, encoding=None, **options)

    def _spawnpty(self, _args: list[str], **options: Any) -> Any:
        forked = self._forked

        class Pty(_Pty):
            def __init__(self, pid: int, fd: int) -> None:
                super().__init__(pid, fd)
                forked.append(self)

        return Pty.spawn(self._argv, pass_fds=self._pass_fds, **options)


@dataclass(frozen=True)
class Spawned:
    """A running process and the master end of its pty."""

    pid: int
    fd: int
    _pty: _Pty
    _spawn: _Spawn

    def close(self) -> None:
        """Close the master end, once."""
        _close(self._pty)
        self._spawn.closed = True
        self._spawn.child_fd = -1


@dataclass(frozen=True)
class Preparation:
    """What the fork does before it becomes the child's program."""

    size: Size
    cwd: str | None = None
    pass_fds: Sequence[int] = ()
    attributes: list[Any] | None = None
    preexec: Callable[[], None] | None = None
    preexec_fds: Sequence[int] = ()

    def __call__(self) -> None:
        """Do it; what fails reaches ``spawn`` in the parent as a sentence."""
        try:
            self._prepare()
        except BaseException as error:  # noqa: BLE001  # raised again
            # ptyprocess catches Exception only; another would let the fork go on as a guard.
            raise RuntimeError(_in_words(error)) from None

    def _prepare(self) -> None:
        put_size(0, self.size)
        if self.attributes is not None:
            termios.tcsetattr(0, termios.TCSANOW, self.attributes)
        for fd in self.pass_fds:
            fcntl.fcntl(fd, fcntl.F_SETFD, 0)
        # Not by ptyprocess, which does not catch a missing folder: see above.
        if self.cwd is not None:
            os.chdir(self.cwd)
        INHERITED.restore()
        if self.preexec is not None:
            self.preexec()


def spawn(argv: Sequence[str], env: Mapping[str, str], prepare: Preparation) -> Spawned:
    """Start ``argv`` as the leader of a new session on a new pty.

    Raises:
        LaunchError: the program was not found, or something before its start failed.
    """
    program = _find(argv[0], env)
    forked: list[_Pty] = []
    with all_held_back():  # no handler of ours may run in the fork
        try:
            spawned = _Spawn(
                [program, *argv[1:]],
                pass_fds=[*prepare.pass_fds, *prepare.preexec_fds],
                forked=forked,
                env=dict(env),
                dimensions=(prepare.size.rows, prepare.size.columns),
                preexec_fn=prepare,
            )
        except Exception as error:  # noqa: BLE001  # it raises by the name that the fork sent
            for pty in forked:
                _close(pty)
                os.waitpid(pty.pid, 0)
            raise LaunchError(f"{argv[0]} cannot be started: {_in_words(error)}.") from None
    return Spawned(forked[0].pid, spawned.child_fd, forked[0], spawned)


def _close(pty: _Pty) -> None:
    """Close the master end. ptyprocess's own close, and its finaliser, sleep, wait and kill."""
    pty.fileobj.close()
    pty.closed = True


def _find(program: str, env: Mapping[str, str]) -> str:
    """The program's absolute path, found as execvpe(3) would with this environment."""
    found = shutil.which(program, path=env.get("PATH", os.defpath))
    if found is None:
        reason = "it is not executable" if Path(program).is_file() else "it was not found"
        raise LaunchError(f"{program} cannot be started: {reason}.")
    return os.path.abspath(found)


def _in_words(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else (str(error) or type(error).__name__).rstrip(".")
