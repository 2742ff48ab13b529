"""What a launch will be, from facts: the window, the findings, and what holds in Aider's environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aider_guard.checks.all import examine
from aider_guard.checks.window import contested
from aider_guard.config import Config
from aider_guard.core.architecture import Architecture
from aider_guard.core.fit import Fit
from aider_guard.core.readings import (
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import InstalledModel, ModelFacts, ModelMissing, ServerReport
from aider_guard.errors import LaunchError
from aider_guard.launch.aider_settings import AiderSettings, Role, Variable
from aider_guard.launch.door_settings import DoorAddresses
from aider_guard.launch.facts import NOT_ASKED, Facts
from aider_guard.launch.plan import Plan, make_plan, pin_window, shared_window
from aider_guard.launch.routes import DoorAddress
from aider_guard.session.planning import Planner

GIB = 1 << 30
UNKNOWN = Unavailable("not read")
HERE, NOWHERE = "http://127.0.0.1:11434", "http://127.0.0.1:9"
# qwen3:8b: 36 layers, 8 heads of 128 for the cache
EIGHT = Architecture("qwen3", 36, 4096, (32,) * 36, (8,) * 36, 128, 128, 151_936, 40_960)


def model(name: str = "qwen3:8b", weights: int = 5_200_000_000) -> ModelFacts:
    return ModelFacts(name, name, weights, 40_960, EIGHT, blob=name)


def server(*models: ModelFacts | ModelMissing) -> ServerReport:
    installed = tuple(
        InstalledModel(each.name, each.size_bytes, "")
        for each in models
        if isinstance(each, ModelFacts) and isinstance(each.size_bytes, int)
    )
    return ServerReport(
        base=HERE,
        is_local=True,
        version="0.33.0",
        installed=installed,
        loaded=ModelsReading((), 0.0),
        cloud_disabled=True,
        process=UNKNOWN,
        models={each.name: each for each in models},
    )


def memory(free_gib: float, total_gib: float = 16) -> MemoryReading:
    used = int((total_gib - free_gib) * GIB)
    return MemoryReading((Gpu(0, "card", int(total_gib * GIB), used, ()),), UNKNOWN, 0.0)


def settings(*names: str) -> AiderSettings:
    main, *others = names or ("ollama_chat/qwen3:8b",)
    roles = [Role("main", main)]
    roles += [Role(role, name) for role, name in zip(("editor", "weak"), others, strict=False)]
    return AiderSettings(version="0.86.2", model=main, roles=tuple(roles))


def plan(
    report: ServerReport | Unavailable | None = None,
    aider_settings: AiderSettings | Unavailable | None = None,
    reading: MemoryReading | Unavailable | None = None,
    corrections: dict[str, int] | None = None,
    **config: object,
) -> Plan:
    facts = Facts(
        config=Config(**config),  # type: ignore[arg-type]  # settings by name
        settings=aider_settings or settings(),
        server=report or server(model()),
        memory=reading or memory(16),
    )
    return make_plan(
        facts, ollama=HERE, refusing_proxy=NOWHERE, corrections=corrections or {}, examine=examine
    )


def window(made: Plan) -> int:
    assert made.pins is not None
    return made.pins.window_tokens


def test_the_largest_window_that_fits_is_pinned() -> None:
    """At most the trained one, less on a fuller card; always whole 1,024 tokens."""
    assert window(plan()) == 40_960
    less = window(plan(reading=memory(9)))
    assert 8192 <= less < 40_960
    assert less % 1024 == 0
    made = plan(reading=memory(9))
    assert isinstance(made.fit, Fit)
    assert made.fit.fits
    assert made.fit.num_ctx == less


def loaded(window: int | Unavailable, size: int = GIB, vram: int = GIB) -> ServerReport:
    entry = LoadedModel("qwen3:8b", "", size, vram, window)
    return replace(server(model()), loaded=ModelsReading((entry,), 0.0))


SHARED: list[tuple[int | Unavailable, int, int]] = [
    (40_960, GIB, 40_960),  # left from a session that had more memory
    (24_576, GIB, 24_576),
    (4096, GIB, 0),  # Ollama's default, by another program
    (Unavailable("not told before 0.10"), GIB, 0),
    (40_960, GIB // 2, 0),  # partly on the CPU
]


@pytest.mark.parametrize(("window_loaded", "vram", "expected"), SHARED)
def test_the_window_of_a_loaded_model_is_taken_over(
    window_loaded: int | Unavailable, vram: int, expected: int
) -> None:
    """One that is near the largest that fits, which differs a little from start to start."""
    auto = window(plan(loaded(UNKNOWN, vram=vram), reading=memory(9)))
    assert 8192 < auto < 26_000
    report = loaded(window_loaded, vram=vram)
    assert window(plan(report, reading=memory(9))) == (expected or auto)
    assert window(plan(report, reading=memory(9), num_ctx=2048)) == 2048


def test_without_a_computed_window_a_loaded_one_is_better_than_the_cautious_one() -> None:
    """Unless it is smaller."""
    unknown = Unavailable("not read")
    assert window(plan(loaded(16_384), reading=unknown)) == 16_384
    assert window(plan(loaded(4096), reading=unknown)) == 8192


def test_two_sessions_take_one_window() -> None:
    """The one that the other session fixes, whatever is loaded; a number that was asked for wins, with a warning."""
    held = {"library/qwen3:8b": 12_288, "other": 4096}
    facts = Facts(Config(), settings(), loaded(40_960), memory(16), held_windows=held)
    assert shared_window("qwen3:8b", facts, 40_960) == 12_288
    assert shared_window("small:1b", facts, 40_960) is None
    pinned, pins = pin_window(facts, settings(), Unavailable("x"), {})
    assert (pins.window_tokens, list(contested(pinned))) == (12_288, [])
    own = replace(facts, config=Config(num_ctx=20_480))
    pinned, pins = pin_window(own, settings(), Unavailable("x"), {})
    assert pins.window_tokens == 20_480
    (finding,) = contested(pinned)
    assert (finding.severity, finding.fix) == ("warn", "aider-guard --num-ctx 12288")


@pytest.mark.parametrize(("own", "expected"), [(12_288, 12_288), (500_000, 40_960)])
def test_a_window_in_the_models_own_file_is_taken(own: int, expected: int) -> None:
    """``PARAMETER num_ctx`` is the user's choice, too, and at most the trained context; a number that was asked for
    and the user's model settings win.
    """
    report = server(replace(model(), num_ctx_parameter=own))
    assert window(plan(report)) == expected
    assert window(plan(report, num_ctx=4096)) == 4096


def test_what_was_learned_of_a_model_makes_its_window_smaller() -> None:
    """A gigabyte more than computed."""
    assert window(plan(reading=memory(9), corrections={"qwen3:8b": GIB})) < window(
        plan(reading=memory(9))
    )


def test_a_number_that_was_asked_for_is_taken_and_judged() -> None:
    """It is pinned though it does not fit, and a warning says so."""
    made = plan(reading=memory(7), num_ctx=32_768)
    assert window(made) == 32_768
    assert isinstance(made.fit, Fit)
    assert not made.fit.fits
    assert "warn" in {finding.severity for finding in made.findings}
    assert not made.is_forbidden


@pytest.mark.parametrize("report", [NOT_ASKED, UNKNOWN])
def test_without_ollamas_answer_the_window_is_the_cautious_one(report: Unavailable) -> None:
    """And nothing that was not read forbids a launch."""
    made = plan(report)
    assert window(made) == 8192
    assert isinstance(made.fit, Unavailable)
    assert not made.is_forbidden


def test_a_role_in_a_cloud_forbids_the_launch_unless_the_network_is_open() -> None:
    """The findings are the same; with an open network the keys are left as they are, too."""
    aider_settings = settings("ollama_chat/qwen3:8b", "gpt-4o")
    made, opened = (
        plan(aider_settings=aider_settings),
        plan(aider_settings=aider_settings, network="open"),
    )
    assert made.is_forbidden
    assert not opened.is_forbidden
    assert [finding.id for finding in made.stops] == [finding.id for finding in opened.stops]
    assert "OPENAI_API_KEY" in made.environment.set
    assert opened.environment.set == {}


def test_clouds_are_asked_at_the_door_and_a_server_of_this_machine_as_ever() -> None:
    """OpenAI's address is this machine's server, which the door forwards to; the others lead to its own answers."""
    variable = Variable(
        "OPENAI_API_BASE", ".env", "http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"
    )
    facts = Facts(
        config=Config(),
        settings=replace(settings("openai/local"), addresses=(variable,)),
        server=server(model()),
        memory=memory(16),
    )
    door = DoorAddresses(DoorAddress(4321, "t0ken"), Path("/state"))
    made = make_plan(
        facts,
        ollama=HERE,
        refusing_proxy=NOWHERE,
        corrections={},
        examine=examine,
        door_addresses=door,
    )
    base = "http://127.0.0.1:4321/t0ken"
    assert made.environment.set["OPENAI_API_BASE"] == f"{base}/openai"
    assert made.environment.set["GROQ_API_BASE"] == f"{base}/cloud/api.groq.com:443"
    assert made.door is not None
    assert [upstream.path for upstream in made.door.upstreams] == ["", "openai"]


def test_a_model_that_is_not_there_forbids_the_launch() -> None:
    """Nothing could work."""
    made = plan(server(ModelMissing("qwen3:8b", ("qwen3:4b",))))
    assert made.is_forbidden
    assert any("ollama pull qwen3:8b" in finding.fix for finding in made.stops)


def test_without_aiders_settings_nothing_is_pinned_and_nothing_forbidden() -> None:
    """Another Aider runs with the user's arguments alone."""
    made = plan(aider_settings=Unavailable("another version"))
    assert made.pins is None
    assert not made.is_forbidden
    assert made.environment.set == {}


def test_a_file_that_cannot_be_merged_stops_the_launch(tmp_path: Path) -> None:
    """Its sentence names the file."""
    broken = tmp_path / "broken.yml"
    broken.write_text("- name: [")
    aider_settings = replace(settings(), model_settings_files=(str(broken),))
    with pytest.raises(LaunchError, match=r"broken\.yml cannot be read"):
        plan(aider_settings=aider_settings)


# A session's planner


def planner(tmp_path: Path, **config: object) -> Planner:
    from aider_guard.launch.aider import Aider

    made = Config(**config)  # type: ignore[arg-type]  # settings by name
    return Planner(made, Aider("/bin/aider", ("/bin/python",)), {}, NOWHERE, tmp_path)


def test_the_window_of_a_session_stays(tmp_path: Path) -> None:
    """At a restart the card is fuller or emptier, and the pin is what the user knows."""
    made = planner(tmp_path)
    first = window(made.plan(settings(), server(model()), memory(9)))
    assert window(made.plan(settings(), server(model()), memory(16))) == first
    assert window(made.plan(settings(), UNKNOWN, UNKNOWN)) == first


def test_a_session_knows_who_named_another_machine(tmp_path: Path) -> None:
    """OLLAMA_HOST of the environment: the guard itself put it into Aider's own variable."""
    box = "http://gpu-box:11434"
    variable = Variable("OLLAMA_API_BASE", "the environment", box)
    aider_settings = replace(settings(), ollama_api_base=box, addresses=(variable,))
    made = planner(tmp_path)
    made.environment = {"OLLAMA_HOST": "gpu-box"}
    made.door = DoorAddress(43210, "t0ken")
    box_plan = made.plan(
        aider_settings, replace(server(model()), base=box, is_local=False), memory(16)
    )
    (finding,) = (each for each in box_plan.findings if each.id == "remote-ollama")
    assert finding.evidence == "OLLAMA_HOST, the environment"
    assert box_plan.start_messages == (finding.what,)
    assert box_plan.door is not None
    assert box_plan.door.upstreams[0].base == box


def test_other_models_get_a_window_of_their_own(tmp_path: Path) -> None:
    """The user changed the settings between two launches."""
    made = planner(tmp_path)
    first = window(made.plan(settings(), server(model()), memory(9)))
    small = model("small:1b", GIB)
    other = made.plan(settings("ollama_chat/small:1b"), server(small), memory(9))
    assert window(other) > first


def test_the_main_memory_counts_where_there_is_no_gpu(tmp_path: Path) -> None:
    """As much as is available."""
    reading = MemoryReading(
        Unavailable("no NVIDIA driver is installed"), RamReading(32 * GIB, 20 * GIB, UNKNOWN), 0.0
    )
    made = planner(tmp_path).plan(settings(), server(model()), reading)
    assert window(made) == 40_960
    assert isinstance(made.fit, Fit)
