"""What the tests on the real programs share: rig, private Ollama, repository, environment."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from e2e.desk import Desk
from e2e.emptying import empty
from e2e.shallow import BRIEF, upload
from e2e.shallow import NAME as SHALLOW
from session.ptys import PATIENT
from standin.program import VERSION, standin_ollama

from aider_guard.demo.layout import SMALL
from aider_guard.demo.model import PARAMETERS, TEMPLATE
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama
from aider_guard.demo.rig import ensure_rig
from aider_guard.demo.sample import make_sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.demo.layout import Rig

TEST_TIMEOUT_SECONDS = 600
PRIVATE, TODAY = "0.9.3", VERSION
"""The servers of these tests: a real Ollama, and a stand-in for one of today (``tests/standin``)."""
FILE = pytest.StashKey[Path]()
"""The file whose tests used the shared server last."""
_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder is an e2e test with a time limit to match."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def rig() -> Rig:
    """The private Aider, Ollama and models; installed if they are not there."""
    return ensure_rig()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of ``ollama`` runs on the servers of its marker ``servers``, without one on the server of today.

    What depends on an old server is tried on the real one, all else on the one that is faster and nearer to the users'.
    """
    if "ollama" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("servers")
        chosen = marker.args if marker else (TODAY,)
        metafunc.parametrize("ollama", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def ollama(
    request: pytest.FixtureRequest, rig: Rig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateOllama]:
    """One server for all tests of a run, on models that tests may add to: the private Ollama, or a stand-in."""
    folder = tmp_path_factory.mktemp("ollama")
    if request.param != PRIVATE:
        with standin_ollama(rig, folder, request.param) as server:
            yield server
        return
    models = folder / "models"
    shutil.copytree(rig.models, models, copy_function=os.symlink)
    with private_ollama(rig.ollama, models, folder=folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_loaded(request: pytest.FixtureRequest) -> None:
    """A file's tests find the shared server as they would find it when they were the first."""
    if "ollama" in request.fixturenames and request.config.stash.get(FILE, None) != request.path:
        request.config.stash[FILE] = request.path
        empty(request.getfixturevalue("ollama"))


def windows_tokens(log: str) -> list[int]:
    """The window of each runner whose start a server has logged, in tokens."""
    return [int(window) for window in re.findall(r" cmd=.* (?:--ctx-size|-c) (\d+)", log)]


def create(ollama: PrivateOllama, name: str, **facts: object) -> str:
    """Make a model on the server; its name."""
    body = {"model": name, "stream": False, **facts}
    httpx.post(
        f"{ollama.url}/api/create", json=body, timeout=60, trust_env=False, verify=False
    ).raise_for_status()
    return name


@pytest.fixture(scope="session")
def shallow(ollama: PrivateOllama, rig: Rig) -> str:
    """The small model without most of its layers: for what does not depend on them, in a small part of the time."""
    digest = upload(rig, ollama)
    return create(
        ollama, SHALLOW, files={f"{SHALLOW}.gguf": digest}, template=TEMPLATE, parameters=PARAMETERS
    )


@pytest.fixture(scope="session")
def terse(ollama: PrivateOllama, shallow: str) -> str:
    """The shallow model, made to end in its first word: a turn takes a second."""
    # Not by num_predict: Aider takes an answer that is cut for one that found no room. Each stop leaves a word before
    # it (" the|n", " Ie|nsely"): llama.cpp cuts at the first of them in the text, 0.9.3 at the first of the list.
    stop = [*"ns", "ro", "\u00a0"]
    return create(ollama, "terse", **{"from": shallow}, parameters={**BRIEF, "stop": stop})


@pytest.fixture(scope="session")
def wordy(ollama: PrivateOllama) -> str:
    """The small model, made to stop after its first sentence: a turn takes some seconds."""
    parameters = {"stop": [".", "<|im_end|>"], "temperature": 0, "seed": 1}
    return create(ollama, "wordy", **{"from": SMALL}, parameters=parameters)


@pytest.fixture
def sample_repo(tmp_path: Path) -> Path:
    """A fresh sample repository."""
    return make_sample(tmp_path / "till")


@pytest.fixture
def desk(rig: Rig, sample_repo: Path, tmp_path: Path) -> Desk:
    """A HOME and state folder of its own, no keys, no server named yet."""
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
        **PATIENT,
    }
    return Desk(rig.aider_command, sample_repo, env)


@pytest.fixture
def aider_env(ollama: PrivateOllama, tmp_path: Path) -> dict[str, str]:
    """A child's whole environment: a HOME and state folder of its own, no keys, the server."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
        "OLLAMA_API_BASE": ollama.url,
        **PATIENT,
    }
