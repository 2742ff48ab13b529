"""Runs the tests on a copy of the tree, unchanged for the map of tests and lines, then with one change at a time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.changes import Change, changed_source
from mutants.plugin import CHOSEN, RECORD_IN, RECORD_OF

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".*_cache", "*.egg-info", "build", "dist"
)
PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider")
PLUGIN = ("-p", "mutants.plugin", "--hypothesis-seed=0")
ALL_PASSED, A_TEST_FAILED, NOT_EVEN_IMPORTED = 0, 1, 2


class TrialError(Exception):
    """The tests cannot be run as they must be; the message is for the user."""


@dataclass(frozen=True)
class Tests:
    """What the unchanged tests did: their seconds, and the tests of each line of each file."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, Sequence[str]]]

    def for_change(self, change: Change) -> list[str]:
        """The tests that can notice the change, the quickest first.

        Code outside functions may matter to any test: those that run its file come first.
        """
        of_file = self.lines.get(change.file, {})
        running = {test for line in change.lines for test in of_file.get(line, ())}
        if not change.at_import:
            return self._quickest(running)
        near = {test for tests in of_file.values() for test in tests}
        return [*self._quickest(near), *self._quickest(self.seconds.keys() - near)]

    def _quickest(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds.get(test, 0.0), test))


@dataclass(frozen=True)
class Copy:
    """A copy of the tree in a folder of its own, with the tests that belong to the code."""

    root: Path
    tests: Sequence[str]

    async def record(self, package: Path, to: Path) -> Tests:
        """Runs the unchanged tests and notes what they run. ``to/tests.jsonl`` grows meanwhile.

        Raises:
            TrialError: a test failed, or none ran the code.
        """
        env = {RECORD_OF: str(self.root / package), RECORD_IN: str(to)}
        status, output = await self._run(self.tests, env, limit=None)
        if status != ALL_PASSED:
            raise TrialError(f"{output}\nThe tests must pass before anything is changed.")
        seconds = dict(json.loads(line) for line in (to / "tests.jsonl").read_text().splitlines())
        lines = {
            str(Path(file).relative_to(self.root.resolve())): {
                int(line): tests for line, tests in of_file.items()
            }
            for file, of_file in json.loads((to / "lines.json").read_text()).items()
        }
        if not any(tests for of_file in lines.values() for tests in of_file.values()):
            raise TrialError(f"No test of {' '.join(self.tests)} runs a line of {package}.")
        return Tests(seconds, lines)

    async def notices(self, change: Change, tests: Sequence[str], limit: float) -> bool:
        """Whether one of these tests fails on the change, or does not end within ``limit`` seconds.

        Raises:
            TrialError: the tests could not be run at all.
        """
        if not tests:
            return False
        path = self.root / change.file
        original, times = path.read_text(), path.stat()
        chosen = self.root / "chosen-tests.json"
        chosen.write_text(json.dumps(tests))
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        try:
            path.write_text(changed_source(original, change.number))
            status, output = await self._run(list(files), {CHOSEN: str(chosen)}, limit)
        finally:
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if status in {None, A_TEST_FAILED, NOT_EVEN_IMPORTED}:
            return True
        if status != ALL_PASSED:
            raise TrialError(f"{output}\npytest ended with status {status} on {change}")
        return False

    async def _run(
        self, tests: Sequence[str], env: Mapping[str, str], limit: float | None
    ) -> tuple[int | None, str]:
        """The status of pytest, None past the limit, and what it printed."""
        program = Path(__file__).resolve().parents[1]
        places = os.pathsep.join(map(str, (self.root, self.root / "tests", program)))
        own = {"PYTHONPATH": places}
        if CHOSEN in env:  # no bytecode of a changed file may outlive the change
            own["PYTHONDONTWRITEBYTECODE"] = "1"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *PYTEST,
            *PLUGIN,
            *tests,
            cwd=self.root,
            env={**os.environ, **own, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), limit)
        except asyncio.TimeoutError:
            return None, ""
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return process.returncode, output.decode(errors="replace")


def copy_tree(root: Path, to: Path, tests: Sequence[str]) -> Copy:
    """Copies the tree at ``root`` to the new folder ``to``, with its bytecode, without git and builds."""
    shutil.copytree(root, to, ignore=NOT_COPIED, symlinks=True)
    return Copy(to, tests)
