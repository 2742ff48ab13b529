"""All that the guard and its helpers import, early or late, is loaded before Aider begins."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import pytest

import aider_guard
from aider_guard.process_starter import PACKAGE_PARENT
from aider_guard.session import loaded_code

PACKAGE = Path(aider_guard.__file__).parent
SESSION = ("aider_guard.session.run", "aider_guard.session.session", "aider_guard.session.planning")
ONE_SHOT = ("aider_guard.session.oneshot", "aider_guard.launch.gathering")
NEVER_LATE = {
    "aider_guard.launch.conf_file": "read before Aider starts",
    **dict.fromkeys(
        ("aider_guard.airgap.jail", "aider_guard.airgap.netns", "aider_guard.airgap.seccomp"),
        "the layer is chosen before Aider starts",
    ),
    **dict.fromkeys(
        (
            "aider_guard.ollama.client",
            "aider_guard.ollama.survey",
            "aider_guard.sidecar.gpu",
            "aider_guard.sidecar.memory",
        ),
        "a run without a conversation asks Ollama and reads the memory before it answers Aider",
    ),
}
LOADED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]): importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_after(modules: Sequence[str]) -> set[str]:
    """The modules that a Python has loaded once it has imported these."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(modules)],
        cwd=PACKAGE_PARENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, also in functions; not those for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module


def missing(modules: Sequence[str], never_late: Container[str]) -> set[str]:
    """What the package's loaded modules import and is not loaded."""
    loaded = loaded_after(modules)
    files = {
        name: Path(*name.split(".")).with_suffix(".py")
        for name in loaded
        if name.startswith("aider_guard.")
    }
    paths = (PACKAGE_PARENT / file for file in files.values())
    return {
        name
        for path in paths
        if path.exists()
        for name in imports_of(path)
        if name not in loaded and name not in never_late and _exists(name)
    }


def _exists(name: str) -> bool:
    return (
        name.split(".", maxsplit=1)[0] in {"aider_guard", *sys.stdlib_module_names}
        or name in sys.modules
    )


def test_the_helpers_load_nothing_late() -> None:
    """Every module that one of theirs imports in a function is loaded by the starter."""
    assert missing(loaded_code.HELPERS, {}) - PLATFORMS == set()


@pytest.mark.parametrize("start", [SESSION, ONE_SHOT])
def test_the_guard_loads_nothing_late(start: Sequence[str]) -> None:
    """Nor does the guard itself, in a session and in a run without one."""
    assert missing([*start, *loaded_code._GUARD], NEVER_LATE) - PLATFORMS == set()


PLATFORMS = {"tomli", "tomllib", "winreg"}
"""What is read before Aider starts, or on other systems."""


def test_what_the_counter_loads_at_its_first_question_is_loaded() -> None:
    """tiktoken finds the module of its encodings by itself; without it the counter would end at each question."""
    assert {"tiktoken", "tiktoken_ext.openai_public"} <= loaded_after(loaded_code.HELPERS)
