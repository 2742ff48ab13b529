"""Runs the tests on a copy of the tree, unchanged for the map of tests and lines, then with one change at a time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.changes import Change, changed_source
from mutants.plugin import CHOSEN, RECORD_IN, RECORD_OF

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".*_cache", "*.egg-info", "build", "dist"
)
PYTEST = ("-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider")
PLUGIN = ("-p", "mutants.plugin", "--hypothesis-seed=0")
# The server has imported what pytest would have rewritten: that is of no use here.
QUIET = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
OUTPUT = "pytest-output.txt"
ALL_PASSED, A_TEST_FAILED, NOT_EVEN_IMPORTED, PYTEST_BROKE = 0, 1, 2, 3


class TrialError(Exception):
    """The tests cannot be run as they must be; the message is for the user."""


@dataclass(frozen=True)
class Tests:
    """What the unchanged tests did: their seconds, and the tests (or files of tests) of each line of each file."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, Sequence[str]]]

    def for_change(self, change: Change) -> list[str]:
        """The tests that can notice the change, the quickest first.

        Code outside functions may matter to any test: those that run its file come first.
        """
        of_file = self.lines.get(change.file, {})
        running = {
            test
            for line in change.lines
            for name in of_file.get(line, ())
            for test in self._of(name)
        }
        if not change.at_import:
            return self._quickest(running)
        near = {test for names in of_file.values() for name in names for test in self._of(name)}
        return [*self._quickest(near), *self._quickest(self.seconds.keys() - near)]

    def _of(self, name: str) -> Sequence[str]:
        """A test, or the tests of a file."""
        if "::" in name:
            return (name,)
        return [test for test in self.seconds if test.partition("::")[0] == name]

    def _quickest(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds.get(test, 0.0), test))


class Copy:
    """A copy of the tree in a folder of its own, and a server that runs tests in it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._server: asyncio.subprocess.Process | None = None

    async def record(self, tests: Sequence[str], package: str, to: Path) -> Tests:
        """Runs the unchanged tests and notes what they run. ``to/tests.jsonl`` grows meanwhile.

        Raises:
            TrialError: a test failed, or none ran the code.
        """
        env = {RECORD_OF: str(self.root / package), RECORD_IN: str(to)}
        process = await self._start("-m", "pytest", *PYTEST, *PLUGIN, *tests, env=env)
        try:
            output, _ = await process.communicate()
        finally:
            await _end(process)
        if process.returncode != ALL_PASSED:
            text = output.decode(errors="replace")
            raise TrialError(f"{text}\nThe tests must pass before anything is changed.")
        seconds: dict[str, float] = defaultdict(float)
        for line in (to / "tests.jsonl").read_text().splitlines():
            test, duration = json.loads(line)
            seconds[test] += duration
        lines = {
            Path(file).relative_to(self.root).as_posix(): {
                int(line): tests for line, tests in of_file.items()
            }
            for file, of_file in json.loads((to / "lines.json").read_text()).items()
        }
        if not any(tests for of_file in lines.values() for tests in of_file.values()):
            raise TrialError(f"No test of {' '.join(tests)} runs a line of {package}.")
        return Tests(seconds, lines)

    async def serve(self, notes: Path, known: Tests) -> None:
        """Starts the server; ``notes`` are those of ``record``.

        Raises:
            TrialError: a test that passed fails here without any change.
        """
        self._server = await self._start("-m", "mutants.server", str(notes / "modules.json"))
        quickest = min(known.seconds, key=lambda test: known.seconds[test])
        if await self._run([quickest], limit=120) != ALL_PASSED:
            output = (self.root / OUTPUT).read_text()
            raise TrialError(f"{output}\n{quickest} fails in a fork, with nothing changed.")

    async def close(self) -> None:
        """Ends the server."""
        if self._server is not None:
            await _end(self._server)

    async def notices(self, change: Change, tests: Sequence[str], limit: float) -> bool:
        """Whether one of these tests fails on the change, or does not end within ``limit`` seconds.

        Raises:
            TrialError: the tests could not be run at all.
        """
        if not tests:
            return False
        path = self.root / change.file
        original, times = path.read_text(), path.stat()
        try:
            path.write_text(changed_source(original, change.number))
            status = await self._run(tests, limit)
        finally:
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if status in {None, A_TEST_FAILED, NOT_EVEN_IMPORTED, PYTEST_BROKE}:
            return True
        if status != ALL_PASSED:
            output = (self.root / OUTPUT).read_text()
            raise TrialError(f"{output}\npytest ended with status {status} on {change}")
        return False

    async def _run(self, tests: Sequence[str], limit: float) -> int | None:
        """The status of pytest on these tests, in this order; None past the limit."""
        chosen = self.root / "chosen-tests.json"
        chosen.write_text(json.dumps(tests))
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        order = {
            "arguments": [*PYTEST, *PLUGIN, *QUIET, *files],
            "env": {CHOSEN: str(chosen)},
            "output": str(self.root / OUTPUT),
            "limit": limit,
        }
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        await self._server.stdin.drain()
        answer = await self._server.stdout.readline()
        if not answer:
            raise TrialError("The process that runs the tests has ended.")
        status: int | None = json.loads(answer)
        return status

    async def _start(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Starts Python in the copy, which finds the copy's code before any other."""
        program = Path(__file__).resolve().parents[1]
        places = os.pathsep.join(map(str, (self.root, self.root / "tests", program)))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": places, **(env or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a process and its children, if it has not ended."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def copy_tree(root: Path, to: Path) -> Copy:
    """Copies the tree at ``root`` to the new folder ``to``, with its bytecode, without git and builds."""
    shutil.copytree(root, to, ignore=NOT_COPIED, symlinks=True)
    return Copy(to)
