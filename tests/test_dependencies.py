"""The libraries that the package needs: their lowest versions work, and none has a hole that is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]

TOUCHES_LIBRARIES = (
    "tests/test_cli.py",
    "tests/test_config.py",
    "tests/test_journal.py",
    "tests/counting/test_counting_process.py",
    "tests/counting/test_vocabulary.py",
    "tests/door/test_door_attack.py",
    "tests/door/test_door_transport_answers.py",
    "tests/door/test_door_transport_entry.py",
    "tests/door/test_door_transport_upstreams.py",
    "tests/session/test_spawn.py",
    "tests/session/test_turns.py",
    "tests/sidecar/test_gpu_sensor.py",
)
"""Tests that go through the libraries, rather than around them."""


def required(name: str) -> Iterator[Requirement]:
    """What a distribution needs on this Python, without its extras."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def needed(name: str = "aider-guard") -> dict[str, str]:
    """The versions installed here of what the package needs, and of what that needs."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        for requirement in required(waiting.pop()):
            if requirement.name not in found:
                found[requirement.name] = distribution(requirement.name).version
                waiting.append(requirement.name)
    return found


def lowest(requirement: Requirement) -> str:
    """The lowest version that a requirement allows."""
    (version,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
    return f"{requirement.name}=={version}"


def run(*command: str | Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program in the repository; the words of both its streams are kept."""
    words = [str(part) for part in command]
    # Another pytest would take itself for a worker of this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["AIDER_GUARD_TEST_REQUESTS"] = "500"
    return subprocess.run(
        words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )


def holes_in(report: str) -> dict[str, list[str]] | None:
    """The holes that pip-audit reports, by package; None where the index knew none of the packages."""
    known = [row for row in json.loads(report)["dependencies"] if "skip_reason" not in row]
    holes = {row["name"]: [hole["id"] for hole in row["vulns"]] for row in known}
    return {name: found for name, found in holes.items() if found} if known else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lowest_versions_work(tmp_path: Path) -> None:
    """pip's resolver takes the newest: what pyproject.toml promises of old versions is tried here."""
    python = tmp_path / "venv" / "bin" / "python"
    versions = tmp_path / "lowest.txt"
    versions.write_text("\n".join(map(lowest, required("aider-guard"))) + "\n")
    assert run(sys.executable, "-m", "venv", tmp_path / "venv", seconds=120).returncode == 0
    pip = (python, "-m", "pip", "install", "--quiet")
    # --group is of pip 25.1.
    assert run(*pip, "--upgrade", "pip>=25.1", seconds=300).returncode == 0
    done = run(*pip, "-c", versions, "--editable", ".", "--group", "test", seconds=600)
    assert done.returncode == 0, done.stderr
    tests = ("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *TOUCHES_LIBRARIES)
    done = run(python, *tests, seconds=600)
    assert done.returncode == 0, done.stdout[-5000:]


def test_no_version_in_use_has_a_hole_that_is_known(tmp_path: Path) -> None:
    """As far as the package index knows; a mirror that passes on no such data tells nothing."""
    installed = tmp_path / "installed.txt"
    installed.write_text("".join(f"{name}=={version}\n" for name, version in needed().items()))
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    audit = (sys.executable, "-m", "pip_audit", *options, "-r", installed)
    done = run(*audit, seconds=110)
    if not done.stdout:
        pytest.skip(f"the package index was not reached: {done.stderr[-300:].strip()}")
    holes = holes_in(done.stdout)
    if holes is None:
        pytest.skip("the package index gives no data on holes")
    assert holes == {}


AUDITED = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
HOLE = {"name": "c", "version": "1", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}


@pytest.mark.parametrize(
    ("rows", "holes"),
    [
        ([], None),
        ([UNKNOWN], None),
        ([AUDITED, UNKNOWN], {}),
        ([AUDITED, HOLE, UNKNOWN], {"c": ["CVE-1", "CVE-2"]}),
    ],
)
def test_a_report_is_read(rows: list[dict[str, Any]], holes: dict[str, list[str]] | None) -> None:
    """One that knows nothing of any package is no good news."""
    assert holes_in(json.dumps({"dependencies": rows, "fixes": []})) == holes


def test_every_requirement_says_its_lowest_version() -> None:
    """And no highest one: a launcher that forbids new versions cannot be mended by them."""
    bounds = [[bound.operator for bound in one.specifier] for one in required("aider-guard")]
    assert bounds == [[">="]] * len(bounds)
