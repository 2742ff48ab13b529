"""The settings of a session's door, and the addresses that Aider gets, from the facts of its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checks.worlds import (
    GIB,
    MAIN,
    model,
    role,
    same,
    server,
    settings,
    variable,
    world,
)

from aider_guard.checks.all import examine
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream
from aider_guard.core.fit import Card, Fit
from aider_guard.core.model_memory import Runtime
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Gpu, MemoryReading, Unavailable
from aider_guard.core.server_report import ServedModel, ServerProcess
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.door_settings import (
    DoorAddresses,
    served_models,
    server_keeps_longer,
    smaller_windows,
)
from aider_guard.launch.facts import Facts
from aider_guard.launch.plan import Plan, make_plan
from aider_guard.launch.routes import DoorAddress
from aider_guard.launch.server_runtime import make_placement

HERE, NOWHERE = "http://127.0.0.1:11434", "http://127.0.0.1:9"
DOOR = "http://127.0.0.1:43210/t0ken"
CPP = "http://127.0.0.1:8080/v1"
SERVED = variable("OPENAI_API_BASE", CPP)
NO = Unavailable("not told")
CARD = MemoryReading((Gpu(0, "card", 16 * GIB, 0, ()),), NO, 0.0)


def plan_of(facts: Facts, ollama: str = HERE) -> Plan:
    """The plan of a session that has a door."""
    addresses = DoorAddresses(DoorAddress(43210, "t0ken"), Path("/state"))
    return make_plan(
        facts,
        ollama=ollama,
        refusing_proxy=NOWHERE,
        corrections={},
        examine=examine,
        door_addresses=addresses,
    )


def door(facts: Facts) -> DoorSettings:
    """What its door serves with."""
    result = plan_of(facts).door
    assert result is not None
    return result


def entries(tmp_path: Path, text: str, **more: Any) -> AiderSettings:
    """Aider's settings with a model settings file of the user's."""
    path = tmp_path / "settings.yml"
    path.write_text(text, encoding="utf-8")
    roles = more.pop("roles", same())
    return settings(*roles, model_settings_files=(str(path),), **more)


def openai(name: str = "openai/small", **more: Any) -> Facts:
    """Facts with every role on another server of this machine, which reports its window."""
    windows = more.pop("others", {name: OtherModel("", 4096)})
    return world(*same(name), addresses=(SERVED,), server=server(others=windows), **more)


def test_ollamas_address_is_the_doors_whatever_the_network() -> None:
    """In Aider's environment after every .env; the true one is where the door leads."""
    for network in ("offline", "open"):
        facts = world()
        facts = replace(facts, config=replace(facts.config, network=network))
        plan = plan_of(facts)
        assert plan.environment.set["OLLAMA_API_BASE"] == DOOR
        assert plan.door is not None
        assert plan.door.upstreams == (Upstream("", HERE, "ollama"),)
        assert plan.door.refuse_cloud is (network == "offline")


def test_without_a_door_nothing_leads_there() -> None:
    """As the doctor plans; and where Aider did not tell what it will use, there is nothing to serve."""
    plan = make_plan(world(), ollama=HERE, refusing_proxy=NOWHERE, corrections={}, examine=examine)
    assert plan.door is None
    assert "OLLAMA_API_BASE" not in plan.environment.set
    assert plan_of(replace(world(), settings=Unavailable("another Aider"))).door is None


def test_what_the_user_wants_reaches_the_door() -> None:
    """The pin, the token, overflow, the log, the folders."""
    facts = world(memory=CARD, tokenizers="/aider/tokenizers")
    config = replace(facts.config, num_ctx=16384, on_overflow="warn", ollama_log="/var/log/o")
    result = door(replace(facts, config=config))
    assert (result.token, result.window_tokens, result.on_overflow) == ("t0ken", 16384, "warn")
    assert (result.ollama_log, result.tokenizers) == ("/var/log/o", "/aider/tokenizers")
    assert result.learned_dir == "/state/tokens"
    assert (door(world()).on_overflow, door(world()).ollama_log) == ("refuse", "")


def test_the_roles_are_named_as_their_servers_know_them() -> None:
    """Ollama's without Aider's prefix, another server's with its way; a cloud's is no role of the door's."""
    mixed = world(
        role("main", "openai/org/small"),
        role("editor", MAIN),
        role("weak", "gpt-4o-mini", api_base="https://c.example"),
        addresses=(SERVED,),
        server=server(others={"openai/org/small": OtherModel("", 4096)}),
    )
    result = door(mixed)
    assert result.roles == (
        DoorRole("main", "org/small", "openai", 4096),
        DoorRole("editor", "qwen3:8b", ""),
    )
    assert result.upstreams[1] == Upstream("openai", CPP, "openai")


def test_ollamas_models_have_the_pin_for_their_window() -> None:
    """A role has its own window only where another server reports one."""
    result = door(world())
    assert result.roles[0] == DoorRole("main", "qwen3:8b")
    assert result.window_tokens > 0


def test_a_model_behind_ollamas_own_v1_is_ollamas() -> None:
    """No second server: the same one, by the door's own way to it."""
    address = variable("OPENAI_API_BASE", f"{HERE}/v1")
    plan = plan_of(world(*same("openai/qwen3:8b"), addresses=(address,)))
    assert plan.environment.set["OPENAI_API_BASE"] == f"{DOOR}/v1"
    assert plan.door is not None
    assert len(plan.door.upstreams) == 1
    assert plan.door.roles[0] == DoorRole("main", "qwen3:8b", "v1")


def test_a_local_servers_address_is_the_doors() -> None:
    """In both of OpenAI's variables, and its key is kept."""
    plan = plan_of(openai())
    variables = plan.environment.set
    assert variables["OPENAI_API_BASE"] == variables["OPENAI_BASE_URL"] == f"{DOOR}/openai"
    assert "OPENAI_API_KEY" not in variables


def test_the_findings_show_the_users_address_and_nothing_the_token() -> None:
    """No finding shows an address that only this session's Aider may use."""
    facts = openai(memory=CARD)
    for finding in plan_of(facts).findings:
        assert "t0ken" not in f"{finding}"
        assert "43210" not in f"{finding}"
    assert any("127.0.0.1:8080" in finding.evidence for finding in plan_of(facts).findings)


# Windows of other servers


def test_the_window_that_a_server_reports_is_aiders_own() -> None:
    """In its metadata, and as the session's; Ollama's num_ctx is sent to no server."""
    plan = plan_of(openai())
    assert plan.pins is not None
    described = plan.pins.metadata["openai/small"]
    assert (described["max_input_tokens"], described["litellm_provider"]) == (4096, "openai")
    assert plan.pins.settings == []
    assert plan.window_tokens == plan.pins.window_tokens == 4096


REPORTED: list[tuple[int | Unavailable, int | None, str, int | None]] = [
    (4096, None, "", 4096),
    (4096, 2048, "", 2048),
    (4096, 8192, "", 4096),
    (NO, None, "", None),
    (NO, 2048, "", 2048),
    (NO, None, '{"openai/small": {"max_input_tokens": 3000}}', 3000),
    (4096, None, '{"openai/small": {"max_input_tokens": 3000}}', 4096),
    (NO, 2048, '{"openai/small": {"max_input_tokens": 3000}}', 2048),
    (NO, None, '{"openai/small": {"max_input_tokens": "many"}}', None),
]


@pytest.mark.parametrize(("reported", "requested", "metadata", "window"), REPORTED)
def test_a_window_that_is_not_reported_can_be_configured(
    tmp_path: Path,
    reported: int | Unavailable,
    requested: int | None,
    metadata: str,
    window: int | None,
) -> None:
    """By num-ctx, or by the user's own metadata; neither makes a server's window larger."""
    path = tmp_path / "metadata.json"
    path.write_text(metadata)
    told = reported if isinstance(reported, Unavailable) else OtherModel("", reported)
    facts = openai(others={"openai/small": told}, model_metadata_files=(str(path),))
    plan = plan_of(replace(facts, config=replace(facts.config, num_ctx=requested)))
    assert plan.pins is not None
    assert plan.pins.windows.get("openai/small") == window
    described = plan.pins.metadata["openai/small"]
    assert described["litellm_provider"] == "openai", "else Aider asks the network for it"
    max_input_tokens = described.get("max_input_tokens")
    assert max_input_tokens == window or "many" in metadata
    assert isinstance(plan.window_tokens, Unavailable) is (window is None)


def test_beside_ollamas_models_each_has_its_own_window() -> None:
    """The pin of Ollama's is not that of the server, and the session's is the main model's."""
    roles = (role("main", "openai/small"), role("editor", MAIN), role("weak", MAIN))
    facts = world(
        *roles,
        addresses=(SERVED,),
        server=server(others={"openai/small": OtherModel("", 4096)}),
        memory=CARD,
        weak_model=MAIN,
    )
    plan = plan_of(facts)
    assert plan.pins is not None
    assert plan.window_tokens == 4096
    assert plan.pins.windows[MAIN] == plan.pins.window_tokens == 40960
    assert plan.door is not None
    assert plan.door.window_tokens == 40960


def test_the_servers_to_ask_are_complete_and_named_as_aider_names_the_models() -> None:
    """Each model once; Ollama's are asked in their own way, a cloud's not at all."""
    aider_settings = settings(
        role("main", "openai/org/m"),
        role("editor", "openai/org/m"),
        role("weak", "gpt-4o", api_base="https://c.example"),
        addresses=(variable("OPENAI_API_BASE", CPP),),
    )
    assert served_models(aider_settings) == (ServedModel("openai/org/m", "org/m", CPP),)
    assert served_models(settings()) == ()
    other = replace(role("main", MAIN), api_base="http://127.0.0.1:11500")
    assert served_models(settings(other)) == (), "another Ollama tells no window in that protocol"


# The user's model settings


def test_an_address_in_an_entry_becomes_the_doors(tmp_path: Path) -> None:
    """Also in one for every model, and in one that could be switched to later; the user's file stays as it is."""
    text = (
        f"- name: openai/small\n  edit_format: diff\n  extra_params: {{api_base: '{CPP}', top_k: 1}}\n"
        "- name: openai/later\n  extra_params: {base_url: 'http://127.0.0.1:1234/v1'}\n"
        "- name: openai/away\n  extra_params: {api_base: 'https://c.example/v1'}\n"
        f"- name: aider/extra_params\n  extra_params: {{api_base: '{CPP}', seed: 7}}\n"
        "- name: other\n  edit_format: whole\n"
    )
    aider_settings = entries(
        tmp_path,
        text,
        roles=(replace(role("main", "openai/small"), api_base="http://x", address=CPP),),
    )
    plan = plan_of(
        world(settings=aider_settings, server=server(others={"openai/small": OtherModel("", 4096)}))
    )
    assert plan.pins is not None
    by_name = {entry["name"]: entry for entry in plan.pins.settings}
    assert set(by_name) == {"openai/small", "openai/later", "aider/extra_params"}
    assert by_name["openai/small"] == {
        "name": "openai/small",
        "edit_format": "diff",
        "extra_params": {"api_base": f"{DOOR}/openai", "top_k": 1},
    }
    assert by_name["openai/later"]["extra_params"] == {"base_url": f"{DOOR}/openai-2"}
    assert by_name["aider/extra_params"]["extra_params"] == {
        "api_base": f"{DOOR}/openai",
        "seed": 7,
    }
    assert (tmp_path / "settings.yml").read_text(encoding="utf-8") == text


def test_ollamas_own_address_in_an_entry_becomes_the_doors_too(tmp_path: Path) -> None:
    """The way around the door that an entry would be; its window is pinned as well."""
    text = f"- name: {MAIN}\n  extra_params: {{api_base: '{HERE}'}}\n"
    aider_settings = entries(tmp_path, text, roles=(replace(role("main", MAIN), api_base=HERE),))
    plan = plan_of(world(settings=aider_settings))
    assert plan.pins is not None
    (main,) = [entry for entry in plan.pins.settings if entry["name"] == MAIN]
    assert main["extra_params"] == {"api_base": DOOR, "num_ctx": plan.pins.window_tokens}


KEEPING = [
    ("", False),
    (f"- name: {MAIN}\n  extra_params: {{keep_alive: 1h}}\n", True),
    ("- name: aider/extra_params\n  extra_params: {keep_alive: 0}\n", True),
    ("- name: ollama_chat/another\n  extra_params: {keep_alive: 1h}\n", False),
    (f"- name: {MAIN}\n  extra_params: {{temperature: 0}}\n", False),
    (f"- name: {MAIN}\n  extra_params:\n", False),
]


@pytest.mark.parametrize(("text", "users"), KEEPING)
def test_how_long_models_stay_is_the_users_where_he_said_so(
    tmp_path: Path, text: str, users: bool
) -> None:
    """For one of the session's models, or for every one."""
    assert door(world(settings=entries(tmp_path, text))).user_keep_alive is users


@pytest.mark.parametrize(
    ("duration", "longer"),
    [
        *(("-1", True), ("24h", True), ("1h30m", True), ("3600", True), ("-1s", True)),
        *(("", False), ("5m", False), ("30m", False), ("0", False), ("soon", False)),
    ],
)
def test_a_server_that_keeps_models_longer_is_not_told_otherwise(
    tmp_path: Path, duration: str, longer: bool
) -> None:
    """By what its process was started with, where that can be read."""
    process = ServerProcess(7, "ollama", "ada", {"OLLAMA_KEEP_ALIVE": duration} if duration else {})
    report = replace(server(), process=process)
    assert server_keeps_longer(report) is longer
    aider_settings = entries(tmp_path, "")
    assert door(replace(world(settings=aider_settings), server=report)).user_keep_alive is longer


def test_the_options_a_models_process_is_started_with_are_known_before_its_first_request(
    tmp_path: Path,
) -> None:
    """Or loading ahead would load it twice. The entry for every model wins; the window is the session's."""
    text = (
        f"- name: {MAIN}\n  extra_params: {{num_gpu: 20, num_batch: 256, num_ctx: 9, temperature: 0}}\n"
        "- name: aider/extra_params\n  extra_params: {num_gpu: 30.0, num_thread: 1.5, use_mmap: false}\n"
    )
    (main, *_) = door(world(settings=entries(tmp_path, text))).roles
    options = {option.name: option.value for option in main.runner_options}
    assert options == {"num_gpu": 30, "num_batch": 256, "use_mmap": False}


# Smaller windows


def test_smaller_windows_need_less_and_come_largest_first() -> None:
    """Whole 1,024 tokens below the pin; what they need is what core/fit computes for them."""
    resources = make_placement(server(), CARD)
    assert not isinstance(resources, Unavailable)
    needs_of_windows = smaller_windows(resources, 40960)
    windows = [need.window_tokens for need in needs_of_windows]
    assert windows == [30720, 20480, 15360, 10240, 5120]
    needs = [need.needed_bytes for need in needs_of_windows]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > 5 * GIB
    assert [need.window_tokens for need in smaller_windows(resources, 4096)] == [3072, 2048]
    assert smaller_windows(resources, 2048) == ()
    assert smaller_windows(NO, 40960) == ()


def test_models_that_take_turns_need_what_the_largest_of_them_needs() -> None:
    """Together they would not fit, and are never in memory together; where nothing fits, the need is that of all.

    That is a little less than with room, where Ollama takes a larger batch.
    """
    small = model("qwen3:4b", size_bytes=3 * GIB, blob="other")
    both = make_placement(server(model(), small), CARD)
    alone = make_placement(server(model()), CARD)
    assert not isinstance(both, Unavailable)
    assert not isinstance(alone, Unavailable)
    candidates, _, _ = both
    tight = (candidates, (Card("card", 9 * GIB, 9 * GIB),), Runtime())
    roomy = (candidates, (Card("card", 40 * GIB, 40 * GIB),), Runtime())
    hopeless = (candidates, (Card("card", GIB, GIB),), Runtime())
    at = [smaller_windows(each, 16384)[0].needed_bytes for each in (tight, roomy, hopeless)]
    largest = smaller_windows((alone[0], *tight[1:]), 16384)[0].needed_bytes
    assert at[0] == largest < at[2] <= at[1]


def test_a_plans_door_knows_the_windows_below_its_pin() -> None:
    """From the same placement as the plan's own answer."""
    plan = plan_of(world(memory=CARD))
    assert plan.door is not None
    assert isinstance(plan.fit, Fit)
    assert all(need.window_tokens < plan.fit.num_ctx for need in plan.door.smaller_windows)
    assert len(plan.door.smaller_windows) == 5


# Another machine


def test_another_machine_is_named_at_the_start_and_nothing_is_computed_from_this_one() -> None:
    """One line; the window is the cautious one, though a card here would hold a larger."""
    box = "http://gpu-box:11434"
    report = server(base=box, is_local=False)
    facts = world(environment={"OLLAMA_HOST": "gpu-box"}, server=report, memory=CARD)
    plan = plan_of(facts, box)
    assert plan.start_messages == ("all code goes to Ollama on gpu-box:11434, and nowhere else",)
    assert not plan.is_forbidden
    assert plan.window_tokens == 8192
    assert isinstance(plan.fit, Unavailable)
    assert plan.door is not None
    assert plan.door.upstreams == (Upstream("", box, "ollama"),)
    assert plan.door.smaller_windows == ()
    assert plan_of(world(memory=CARD)).start_messages == ()
