"""Gathering the facts: with an Aider, with a broken one, without one; on a fake Ollama and on none."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from checks.worlds import NO, role, same, server, settings, variable, world
from fakes.ollama_server import FakeModel, FakeOllama, Json, Raw

from aider_guard import paths
from aider_guard.airgap.choose import find_layer
from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.egress import LayerChoice, Place
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Gpu, MemoryReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ServerReport
from aider_guard.launch.facts import NOT_ASKED, Facts
from aider_guard.launch.gathering import _with_server, gather, read_memory, with_window

GIB = 1 << 30
CARD = MemoryReading((Gpu(0, "card", 16 * GIB, GIB, ()),), Unavailable("not read"), 0.0)


def nowhere() -> str:
    """The address of a port of this machine on which nothing listens."""
    return "http://127.0.0.1:9"


def facts_of(tmp_path: Path, config: Config, **environment: str) -> Facts:
    """What is gathered there, with one card and no Aider on the path."""
    return gather(
        config,
        (),
        environment={"PATH": os.fspath(tmp_path), **environment},
        state_dir=tmp_path / "not" / "there" / "yet",
        memory_reader=lambda: CARD,
    )


def script(folder: Path, text: str) -> str:
    """An ``aider`` whose Python is ours, where no Aider can be imported."""
    path = folder / "aider"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_aider_the_rest_is_known(tmp_path: Path) -> None:
    """No exception: a fact with its sentence, and Ollama is asked all the same."""
    with FakeOllama() as ollama:
        facts = facts_of(tmp_path, Config(ollama=ollama.url))

    assert "not found" in facts.aider_problem
    assert isinstance(facts.settings, Unavailable)
    assert isinstance(facts.server, ServerReport)
    assert facts.server.version == ollama.version
    assert "aider-missing" in {finding.id for finding in examine(facts)}


def test_a_broken_aider_is_not_known(tmp_path: Path) -> None:
    """A script whose Python cannot import Aider: the reason is Python's own last line."""
    facts = facts_of(tmp_path, Config(aider=script(tmp_path, "import aider"), ollama=nowhere()))

    assert facts.aider_problem == ""
    assert facts.aider_script.endswith("aider")
    assert isinstance(facts.settings, Unavailable)
    assert "aider" in facts.settings.reason


def test_ollamas_address_is_the_environments_where_nobody_said_more(tmp_path: Path) -> None:
    """The address that Aider would use is asked, not the default."""
    with FakeOllama(version="0.12.3") as ollama:
        facts = facts_of(tmp_path, Config(), OLLAMA_API_BASE=ollama.url)

    assert isinstance(facts.server, ServerReport)
    assert facts.server.version == "0.12.3"


def test_no_ollama_is_one_finding(tmp_path: Path) -> None:
    """Nothing listens there: a warning, and nothing else of Ollama's."""
    facts = facts_of(tmp_path, Config(ollama=nowhere()))
    ids = {finding.id for finding in examine(facts)}

    assert "ollama-unread" in ids
    assert not ids & {"ollama", "model-unread", "ollama-runtime"}


def test_garbage_from_ollama_is_one_finding(tmp_path: Path) -> None:
    """A web server at that address: a warning with its reason."""
    with FakeOllama() as ollama:
        ollama.answers["/api/version"] = Raw(b"<html>hello</html>")
        facts = facts_of(tmp_path, Config(ollama=ollama.url))
    (finding,) = (finding for finding in examine(facts) if finding.id == "ollama-unread")

    assert "not Ollama's" in finding.evidence


def test_ollamas_cloud_is_not_asked(tmp_path: Path) -> None:
    """Not even for its version."""
    facts = facts_of(tmp_path, Config(ollama="https://ollama.com"))

    assert facts.server == NOT_ASKED
    assert ("stop", "remote-ollama") in {
        (finding.severity, finding.id) for finding in examine(facts)
    }


def test_the_memory_is_read_meanwhile(tmp_path: Path) -> None:
    """A sensor that hangs delays nothing for ever, and is unknown."""
    hang = threading.Event()

    def never() -> MemoryReading:
        hang.wait(60)
        return CARD

    try:
        facts = gather(
            Config(ollama=nowhere()),
            (),
            environment={"PATH": ""},
            state_dir=tmp_path,
            memory_reader=never,
            memory_seconds=0.05,
        )
    finally:
        hang.set()
    assert isinstance(facts.memory, Unavailable)


def test_a_fault_of_a_sensor_is_not_swallowed(tmp_path: Path) -> None:
    """A bug of ours comes out where its answer is waited for."""

    def broken() -> MemoryReading:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather(
            Config(ollama=nowhere()),
            (),
            environment={"PATH": ""},
            state_dir=tmp_path,
            memory_reader=broken,
        )


def test_the_air_gap_is_tried_with_what_is_allowed(tmp_path: Path) -> None:
    """What a session would get: an address that cannot be one inside costs it the best layer."""
    if find_layer({}).layer != "netns":
        pytest.skip("this system allows no network namespaces")
    allow = (Place("::ffff:127.0.0.1", 22),)
    air_gap = facts_of(tmp_path, Config(ollama=nowhere(), allow=allow)).air_gap
    assert isinstance(air_gap, LayerChoice)
    assert air_gap.layer != "netns"
    assert "could not be made" in air_gap.because


def test_this_machines_memory_is_read() -> None:
    """The main memory at least."""
    assert not isinstance(read_memory().ram, Unavailable)


def test_the_room_on_the_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    """The state folder is made at the first session only."""
    free = paths.free_bytes(tmp_path / "not" / "there")

    assert isinstance(free, int)
    assert free > 0


# The window


def test_the_window_is_the_largest_that_fits() -> None:
    """From what the models need and the card has; with it goes whether they fit."""
    known = world(role("main", "ollama_chat/qwen3:8b"), memory=CARD, window_tokens=NO, fit=NO)
    facts = with_window(known, {})

    assert facts.window_tokens == 40960
    assert not isinstance(facts.fit, Unavailable)
    assert facts.fit.fits
    assert facts.fit.num_ctx == 40960


def test_what_was_learned_makes_the_window_smaller() -> None:
    """Bytes that a model needed beyond the formula are taken off."""
    facts = with_window(world(memory=CARD), {"qwen3:8b": 6 * GIB})

    assert isinstance(facts.window_tokens, int)
    assert facts.window_tokens < 40960


def test_the_users_own_window_goes_first() -> None:
    """And is judged: a window that does not fit is a finding."""
    card = MemoryReading((Gpu(0, "card", 8 * GIB, 0, ()),), Unavailable("not read"), 0.0)
    facts = with_window(world(config=Config(num_ctx=40960), memory=card), {})

    assert facts.window_tokens == 40960
    assert not isinstance(facts.fit, Unavailable)
    assert not facts.fit.fits


def test_an_unknown_memory_leaves_a_window() -> None:
    """The usual one; whether it fits is not known, with the reason."""
    facts = with_window(world(memory=NO), {})

    assert facts.window_tokens == 8192
    assert facts.fit == NO


def test_without_settings_there_is_no_window() -> None:
    """The reason is why there are no settings."""
    assert with_window(world(settings=NO), {}).fit == NO


@pytest.mark.parametrize("is_told", [True, False])
def test_a_file_that_cannot_be_merged_is_one_problem(tmp_path: Path, *, is_told: bool) -> None:
    """Broken YAML: a stop with the file's name, once, whether Aider reported it too or not."""
    broken = tmp_path / "s.yml"
    broken.write_text("- name: [")
    problems = (f"{broken} cannot be read as model settings: x",) if is_told else ()
    known = settings(model_settings_files=(str(broken),), problems=problems)
    facts = with_window(world(settings=known, memory=CARD), {})
    findings = [finding for finding in examine(facts) if finding.severity in {"stop", "unknown"}]

    assert [finding.id for finding in findings] == ["aider-settings"]
    assert str(broken) in findings[0].what
    assert isinstance(facts.window_tokens, Unavailable)


def test_other_servers_are_asked_for_their_windows() -> None:
    """One that answers where no Ollama does."""
    listed = Json({"data": [{"id": "m", "max_model_len": 4096}]})
    with FakeOllama(answers={"/v1/models": listed}) as other:
        address = variable("OPENAI_API_BASE", f"{other.url}/v1")
        config = Config(ollama=nowhere())
        facts = _with_server(world(*same("openai/m"), addresses=(address,), config=config))

    assert isinstance(facts.server, ServerReport)
    assert facts.server.others == {"openai/m": OtherModel("", 4096, name="m")}


def test_the_models_of_the_roles_are_asked_about() -> None:
    """By the names that Ollama knows them by; names of its cloud are not sent."""
    with FakeOllama(models=(FakeModel("qwen3:8b"),)) as ollama:
        config = Config(ollama=ollama.url)
        roles = (role("main", "ollama_chat/qwen3:8b"), role("weak", "ollama_chat/x:cloud"))
        facts = _with_server(world(*roles, config=config, server=server(models={})))

    assert isinstance(facts.server, ServerReport)
    assert isinstance(facts.server.models["qwen3:8b"], ModelFacts)
    assert list(facts.server.models) == ["qwen3:8b"]
    assert not [request for request in ollama.received if "cloud" in str(request.body)]
