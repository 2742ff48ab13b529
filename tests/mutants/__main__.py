"""Changes a random sample of the code's operators, one at a time, and lists those that no test notices."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutants.changes import Change, changes_in
from mutants.trial import Copy, Tests, TrialError, copy_tree

PACKAGES = ("aider_guard/core", "aider_guard/counting")
SILENCE_S = 4.0
ONE_MAY_LIVE_IN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; 0: enough of the changes were noticed, 1: too few, 2: it could not be found out."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("code", nargs="*", help=f"files or folders (default: {' '.join(PACKAGES)})")
    parser.add_argument("--tests", nargs="+", help="files or folders (default: as the code's)")
    parser.add_argument("--sample", type=int, default=60, help="how many changes (default: 60)")
    parser.add_argument("--seed", type=int, help="the number behind the choice, to repeat it")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the project's folder")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    code = options.code or [name for name in PACKAGES if (options.root / name).exists()]
    changes = all_changes(options.root, code)
    if not changes:
        parser.error(f"there is nothing to change in {' '.join(code)}")
    chosen = random.Random(seed).sample(changes, min(options.sample, len(changes)))
    tests = options.tests or tests_of(options.root, chosen)
    say(f"{len(chosen)} of {len(changes)} changes in {' '.join(code)}, seed {seed}")
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # in the background of a shell the first is ignored
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="aider-guard-mutants-") as folder:
        try:
            alive = asyncio.run(try_all(options.root, Path(folder), tests, chosen, options.jobs))
        except TrialError as error:
            say(str(error))
            return 2
        except KeyboardInterrupt:
            return 130
    rate = (
        f"{len(alive)} of {len(chosen)} changes were not noticed ({len(alive) / len(chosen):.0%})"
    )
    say(
        f"{rate}; at most 1 in {ONE_MAY_LIVE_IN} may be. Repeat: --seed {seed} --sample {len(chosen)}"
    )
    return int(len(alive) * ONE_MAY_LIVE_IN > len(chosen))


def all_changes(root: Path, code: Sequence[str]) -> list[Change]:
    """Every change that can be made in these files and folders."""
    files = [
        file
        for name in code
        for file in (
            [root / name] if (root / name).is_file() else sorted((root / name).rglob("*.py"))
        )
    ]
    return [
        change
        for file in files
        for change in changes_in(file.read_text(), file.relative_to(root).as_posix())
    ]


def tests_of(root: Path, changes: Sequence[Change]) -> list[str]:
    """The folders of tests that mirror the packages of these changes: ``tests/core`` for ``aider_guard/core``."""
    mirrors = {Path("tests", *Path(change.file).parts[1:2]).with_suffix("") for change in changes}
    return sorted(str(mirror) if (root / mirror).is_dir() else "tests" for mirror in mirrors)


async def try_all(
    root: Path, folder: Path, tests: Sequence[str], changes: Sequence[Change], jobs: int
) -> list[Change]:
    """Tries the changes on copies in ``folder`` and returns those that no test noticed."""
    notes = folder / "notes"
    copies = [copy_tree(root, folder / "copy-0")]
    known = await record(copies[0], tests, notes, Path(changes[0].file).parts[0])
    for number in range(1, jobs):  # of the first copy: the tests are compiled there now
        copies.append(copy_tree(copies[0].root, folder / f"copy-{number}"))
    free: asyncio.Queue[Copy] = asyncio.Queue()

    async def notices(change: Change) -> tuple[Change, bool]:
        chosen = known.for_change(change)
        # Slower than they were by far: the machine has other work, too.
        limit = 30 + 5 * sum(known.seconds.get(test, 0.0) for test in chosen)
        copy = await free.get()
        try:
            return change, await copy.notices(change, chosen, limit)
        finally:
            free.put_nowait(copy)

    try:
        for copy in copies:
            await copy.serve(notes, known)
            free.put_nowait(copy)
        return await tell([asyncio.create_task(notices(change)) for change in changes])
    finally:
        for copy in copies:
            await copy.close()


async def record(copy: Copy, tests: Sequence[str], notes: Path, package: str) -> Tests:
    """Runs the unchanged tests in a copy, and tells how far they are."""
    notes.mkdir()
    running = asyncio.create_task(copy.record(tests, package, notes))
    started = time.monotonic()
    while not (await asyncio.wait({running}, timeout=SILENCE_S))[0]:
        finished = notes / "tests.jsonl"
        count = finished.read_text().count("\n") if finished.exists() else 0
        say(f"which tests run which lines: {count} tests, {time.monotonic() - started:.0f} s")
    return await running


async def tell(tasks: Sequence[asyncio.Task[tuple[Change, bool]]]) -> list[Change]:
    """Prints each change that was not noticed as soon as it is known, and how far the rest is."""
    alive: list[Change] = []
    waiting = set(tasks)
    started = said = time.monotonic()
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            unnoticed = [
                change for change, noticed in (task.result() for task in done) if not noticed
            ]
            for change in unnoticed:
                say(f"NOT NOTICED {change}")
            alive += unnoticed
            now = time.monotonic()
            if now - said >= SILENCE_S:
                said = now
                tried = len(tasks) - len(waiting)
                say(
                    f"{tried} of {len(tasks)} tried, {len(alive)} not noticed, {now - started:.0f} s"
                )
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return alive


def say(line: str) -> None:
    """Prints a line at once: the program is read while it runs."""
    sys.stdout.write(line + os.linesep)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
