"""What else is checked: Aider, Ollama, the models, the window, memory, habits, calls home, the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from checks.worlds import (
    ALWAYS,
    FINE,
    GIB,
    MAIN,
    MODEL,
    NO,
    by_id,
    finding_of,
    fitting,
    installed,
    model,
    no_model,
    notable,
    process,
    role,
    same,
    server,
    world,
)

from aider_guard.checks.aider import default_map_tokens, prints_long_tracebacks
from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.findings import Severity
from aider_guard.core.fit import Need
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ModelMissing, ServerReport
from aider_guard.launch.facts import Facts, RepoFacts

Notable = set[tuple[Severity, str]]


def test_a_machine_on_which_all_is_fine() -> None:
    """Nothing to stop for, to look at or unknown; what is to know fits on a screen."""
    findings = examine(FINE)

    assert {finding.severity for finding in findings} == {"info"}
    assert {finding.id for finding in findings} == ALWAYS


def test_the_worst_comes_first() -> None:
    """Stop, warn, unknown, info."""
    facts = world(*same("gpt-4o"), restore_chat_history=True, state_free_bytes=NO)
    severities = [finding.severity for finding in examine(facts)]

    assert list(dict.fromkeys(severities)) == ["stop", "warn", "unknown", "info"]


# Aider

AIDERS: list[tuple[Facts, Notable]] = [
    (world(version="0.79.2"), {("warn", "aider-old")}),
    (world(version="0.9"), {("warn", "aider-old")}),
    (world(version="0.80.0"), {("info", "aider-untried")}),
    (world(version="0.86.3.dev1+g1"), {("info", "aider-untried")}),
    (world(version="1.0"), {("info", "aider-untried")}),
    (world(version=""), {("info", "aider-untried")}),
    (world(version="0.86.2"), set()),
    (
        world(problems=("/repo/.aider.conf.yml, line 3 cannot be read as YAML: x",)),
        {("stop", "aider-settings")},
    ),
    (
        world(problems=("Aider's models cannot be resolved (KeyError: x)",), model=None),
        {("unknown", "aider-settings")},
    ),
]


@pytest.mark.parametrize(("facts", "expected"), AIDERS)
def test_aider_is_found_and_can_read_its_settings(facts: Facts, expected: Notable) -> None:
    """Its version, tried or not, and every file it would stumble over."""
    assert notable(facts) == expected


def test_without_aider_there_is_one_thing_to_do() -> None:
    """No Aider: a stop with how to get one, and no second finding about its settings."""
    facts = world(settings=NO, aider_problem="Aider was not found as 'aider'")

    assert notable(facts) == {("stop", "aider-missing")}
    assert finding_of(facts, "aider-missing").fix == "pipx install aider-chat"


def test_settings_that_are_not_told_are_unknown() -> None:
    """Another Aider than those tried is no reason to stop."""
    facts = world(settings=Unavailable("AttributeError: x"))

    assert notable(facts) == {("unknown", "aider-settings")}
    assert finding_of(facts, "aider-settings").evidence == "AttributeError: x"


# Ollama

SILENT = server(version=NO, installed=NO, loaded=NO, cloud_disabled=NO, models={MODEL: NO})
SERVERS: list[tuple[ServerReport | Unavailable, Notable]] = [
    (NO, {("warn", "ollama-unread")}),
    (SILENT, {("warn", "ollama-unread")}),
    (server(process=NO), {("unknown", "ollama-runtime")}),
    (
        server(process=replace(process(), settings=NO)),
        {("unknown", "ollama-runtime")},
    ),
    (server(process=process("ssh")), {("warn", "ollama-port")}),
    (server(process=process("")), {("warn", "ollama-port")}),
    (server(process=process("docker-proxy")), {("info", "ollama-port")}),
    (server(process=process("com.docker.backend")), {("info", "ollama-port")}),
    (server(process=process("ollama-lib")), set()),
    (server(process=replace(process(""), pid=0)), set()),
    (server(process=process(OLLAMA_NUM_PARALLEL="2")), {("warn", "ollama-parallel")}),
    (server(process=process(OLLAMA_NUM_PARALLEL="1")), set()),
    (server(process=process(OLLAMA_NUM_PARALLEL="many")), set()),
    (server(installed=NO), {("unknown", "model-unread")}),
    (server(models={MODEL: NO}), {("unknown", "model-unread")}),
]


@pytest.mark.parametrize(("report", "expected"), SERVERS)
def test_ollama_answers_and_tells_how_it_runs(
    report: ServerReport | Unavailable, expected: Notable
) -> None:
    """A silent server is one finding; what it does not tell is unknown; whose port it is counts."""
    assert notable(world(server=report)) == expected


def test_an_ollama_that_answers_is_described() -> None:
    """Version, era, address, and the process that holds the port."""
    finding = finding_of(FINE, "ollama")

    assert finding.what == "Ollama 0.31.0 at http://127.0.0.1:11434, local"
    assert finding.evidence == "process 812, ollama, of ollama"


@pytest.mark.parametrize("version", ["0.0.0", "0.0.0-dirty", "dev"])
def test_a_build_from_source_has_no_version_that_is_known(version: str) -> None:
    """Nothing is said of its era."""
    what = finding_of(world(server=server(version=version)), "ollama").what
    assert what.startswith(f"Ollama of an unknown version ({version}, as a build from source)")


def test_a_silent_ollama_is_started_where_that_helps() -> None:
    """As the survey says; where it did not come to an end, a question shows what is there."""
    elsewhere = Config(ollama="http://192.168.1.5:3000/ollama")
    silent = server(version=NO, installed=NO, loaded=NO, helps="ollama serve")

    assert finding_of(world(server=silent), "ollama-unread").fix == "ollama serve"
    finding = finding_of(world(server=NO, config=elsewhere), "ollama-unread")
    assert finding.what == "Ollama does not answer at http://192.168.1.5:3000/ollama as it should"
    assert finding.fix == "curl http://192.168.1.5:3000/ollama/api/version"


def test_an_ollama_that_is_not_used_is_not_missed() -> None:
    """With every role on another server here, a silent Ollama is no finding."""
    address = world().environment
    facts = world(*same("llamafile/x"), server=NO, environment=address)
    assert notable(facts) == {("unknown", "local-server")}


KV_CACHES = [
    ("0.31.0", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, False),
    ("0.31.0", {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "0"}, True),
    ("0.9.3", {"OLLAMA_KV_CACHE_TYPE": "q4_0"}, True),
    ("0.9.3", {"OLLAMA_KV_CACHE_TYPE": "q4_0", "OLLAMA_FLASH_ATTENTION": "1"}, False),
    ("0.9.3", {"OLLAMA_KV_CACHE_TYPE": "f16"}, False),
    ("0.9.3", {}, False),
]


@pytest.mark.parametrize(("version", "variables", "is_said"), KV_CACHES)
def test_a_quantised_cache_without_flash_attention(
    version: str, variables: dict[str, str], *, is_said: bool
) -> None:
    """It is refused or falls back, depending on the version."""
    facts = world(server=server(version=version, process=process(**variables)))
    assert bool(by_id(facts, "ollama-kv-cache")) == is_said


def test_how_ollama_runs_models_is_one_finding() -> None:
    """Not three; with the variables and where they were read."""
    server_process = process(OLLAMA_KV_CACHE_TYPE="q8_0", OLLAMA_FLASH_ATTENTION="true")
    finding = finding_of(world(server=server(process=server_process)), "ollama-runtime")

    assert finding.what == "KV cache q8_0, flash attention on, 1 parallel request"
    assert finding.evidence.endswith("(read from its process)")


# Models

MODELS: list[tuple[Facts, Notable]] = [
    (no_model(), {("stop", "no-model")}),
    (world(server=server(ModelMissing(MODEL, ("qwen3:4b",)))), {("stop", "model-missing")}),
    (world(*same("ollama_chat/qwen3: 8b"), server=server(ModelMissing("qwen3: 8b")), fit=NO),
     {("stop", "model-name")}),
    (world(*same("ollama_chat/qwen3"), server=server(model("qwen3", resolved="qwen3:latest"))),
     {("info", "model-tag")}),
    (world(*same("ollama_chat/QWEN3:8B"), server=server(model("QWEN3:8B", resolved=MODEL))), set()),
    (world(server=server(model(loses_system=True))), {("warn", "model-template")}),
    (world(*same(f"ollama/{MODEL}")), {("warn", "model-prefix")}),
    (world(*same(MODEL)), {("stop", "model-prefix")}),
    (world(*same("library/qwen3:8b")), {("stop", "model-prefix")}),
    (world(*same("qwen3:14b")), {("stop", "cloud-model")}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), MODELS)
def test_each_model_is_there_under_its_exact_tag(facts: Facts, expected: Notable) -> None:
    """None named, none installed, a tag left out, the wrong prefix or none: one finding each."""
    assert notable(facts) == expected


def test_an_impossible_name_is_not_in_the_line_to_paste() -> None:
    """Also where the server does not answer, and nothing is known to be missing."""
    facts = world(*same("ollama_chat/qwen3 8b"), server=Unavailable("not asked"))
    finding = finding_of(facts, "model-name")

    assert finding.what == (
        "the main, editor and weak model, 'qwen3 8b', is not a name that Ollama accepts"
    )
    assert finding.fix == "ollama pull qwen3:8b && aider-guard -- --model ollama_chat/qwen3:8b"


def test_a_missing_model_is_pulled() -> None:
    """With the installed models of similar names as evidence, and the roles that need it."""
    finding = finding_of(world(server=server(ModelMissing(MODEL, ("qwen3:4b",)))), "model-missing")

    assert finding.what == "Ollama has no qwen3:8b, the main, editor and weak model"
    assert finding.evidence == "installed with a similar name: qwen3:4b"
    assert finding.fix == (
        "aider-guard -- --model ollama_chat/qwen3:4b   # or: ollama pull qwen3:8b"
    )
    alone = finding_of(world(server=server(ModelMissing(MODEL))), "model-missing")
    assert alone.fix == "ollama pull qwen3:8b"


def test_how_to_choose_a_model_when_there_is_none() -> None:
    """The installed ones are listed, and one of them is in the line to paste; none that runs in a cloud is."""
    tags = (
        installed("kimi:cloud"),
        installed("stub:1b", remote_host="https://ollama.com"),
        installed("qwen3:4b"),
    )
    finding = finding_of(no_model(server=server(installed=tags)), "no-model")

    assert finding.evidence == "installed: qwen3:4b"
    assert finding.fix == "aider-guard -- --model ollama_chat/qwen3:4b"


def test_the_fix_of_a_wrong_prefix_keeps_the_role() -> None:
    """Only the roles in question are named anew."""
    facts = world(
        role("main", MAIN),
        role("weak", "ollama/qwen3:4b"),
        server=server(model(), model("qwen3:4b")),
    )
    finding = finding_of(facts, "model-prefix")
    assert finding.fix == "aider-guard -- --weak-model ollama_chat/qwen3:4b"


# The window


def two(first: int | None, second: int | None, **more: Any) -> Facts:
    """Two tags of one file with weights, each with its window."""
    return world(
        role("main", MAIN, num_ctx=first, settings_source="/repo/s.yml"),
        role("weak", "ollama_chat/terse:8b", num_ctx=second),
        server=server(model(blob="sha256-1"), model("terse:8b", blob="sha256-1", **more)),
    )


WINDOWS: list[tuple[Facts, Notable]] = [
    (two(8192, 8192), {("info", "window-pinned")}),
    (two(8192, 16384), {("info", "window-pinned"), ("warn", "window-differs")}),
    (two(8192, None), {("info", "window-pinned"), ("warn", "window-differs")}),
    (two(None, None), set()),
    (
        world(role("main", MAIN, num_ctx=50_000)),
        {("info", "window-pinned"), ("warn", "window-too-long")},
    ),
    (world(role("main", MAIN, num_ctx=40_960)), {("info", "window-pinned")}),
    (world(config=Config(num_ctx=50_000)), {("warn", "window-too-long")}),
    (world(server=server(model(num_ctx_parameter=12_288))), {("info", "window-pinned")}),
]


@pytest.mark.parametrize(("facts", "expected"), WINDOWS)
def test_the_window_is_fixed_the_same_and_not_too_long(facts: Facts, expected: Notable) -> None:
    """By the user's files or the guard; one for all tags of a file; at most the trained context."""
    assert notable(facts) == expected


def test_two_files_may_have_two_windows() -> None:
    """Models of their own do not push each other out by their windows."""
    facts = two(8192, 16384)
    report = server(model(blob="sha256-1"), model("terse:8b", blob="sha256-2"))
    assert not by_id(replace(facts, server=report), "window-differs")


ALIKE = [
    ("0.31.0", 40_960, True),
    ("0.31.0", 8193, True),
    ("0.31.0", 8192, False),
    ("0.31.0", 2048, False),
    ("0.31.0", Unavailable("not told"), True),
    ("0.9.3", 8192, True),
    ("0.24.0", 8192, True),
    ("0.0.0", 8192, True),
]


@pytest.mark.parametrize(("version", "trained", "reloads"), ALIKE)
def test_a_model_whose_window_is_cut_to_8192_is_not_reloaded_by_each_request(
    version: str, trained: int | Unavailable, reloads: bool
) -> None:
    """Aider always asks for more than that, and from 0.30 on Ollama compares what the model can have of it."""
    report = server(model(trained_tokens=trained), version=version)
    what = finding_of(world(server=report), "window-unpinned").what
    assert ("reload the model" in what) is reloads
    assert "the guard fixes it at 16,384 tokens" in what


def test_the_guard_says_what_it_fixes() -> None:
    """With the number, so that the user knows where it comes from."""
    assert "the guard fixes it at 16,384 tokens" in finding_of(FINE, "window-unpinned").what


# Memory

TWO = (
    Need("qwen3:14b", 9 * GIB, 2 * GIB, GIB, GIB // 2),
    Need("qwen3:4b", 3 * GIB, 2 * GIB, GIB, GIB // 2),
)
FITS: list[tuple[Any, Severity, str, str]] = [
    (fitting(), "info", "the model fits into memory at 16,384 tokens", ""),
    (fitting(needs=TWO), "info", "all models fit together", ""),
    (
        fitting(needs=TWO, fits=False, largest_together=0),
        "warn",
        "one at a time",
        f"aider-guard fit {MODEL} --num-ctx 16384",
    ),
    (
        fitting(needs=TWO, fits=False, largest_together=9216),
        "warn",
        "one at a time",
        "aider-guard --num-ctx 9216",
    ),
    (
        fitting(fits=False, alone=False, largest_together=0, largest_alone=12288),
        "warn",
        "12,288 would fit",
        "aider-guard --num-ctx 12288",
    ),
    (
        fitting(fits=False, alone=False, largest_together=0, largest_alone=0),
        "warn",
        "no window of these models fits",
        f"aider-guard fit {MODEL}",
    ),
    (NO, "unknown", "not known", f"aider-guard fit {MODEL} --vram 16"),
]


@pytest.mark.parametrize(("answer", "severity", "what", "fix"), FITS)
def test_whether_the_models_fit(answer: Any, severity: Severity, what: str, fix: str) -> None:
    """Together, one at a time with what a change costs, not at all with the window that would do, or unknown."""
    finding = finding_of(replace(FINE, fit=answer), "fit")

    assert (finding.severity, finding.fix) == (severity, fix)
    assert what in finding.what


def test_a_change_between_models_costs_a_load() -> None:
    """The seconds are an estimate from the weights, which are shown."""
    finding = finding_of(replace(FINE, fit=fitting(needs=TWO, fits=False)), "fit")

    assert "about 4 s" in finding.what
    assert "9.0 GiB of qwen3:14b" in finding.evidence


def test_without_a_gpu_the_memory_is_named() -> None:
    """A user with a card learns why it is not counted."""
    memory = MemoryReading(Unavailable("no NVIDIA driver is installed"), NO, 0.0)
    finding = finding_of(replace(FINE, memory=memory), "fit")

    assert "in main memory: no NVIDIA driver is installed" in finding.evidence


def test_a_missing_model_is_not_said_twice() -> None:
    """That its fit is unknown follows, and is left out."""
    assert notable(world(server=server(ModelMissing(MODEL)), fit=NO)) == {("stop", "model-missing")}


# Habits

HABITS: list[tuple[Facts, Notable]] = [
    (world(map_tokens=4096), set()),
    (world(map_tokens=4097), {("warn", "map-tokens")}),
    (world(map_tokens=0, window_tokens=2048), set()),
    (world(window_tokens=4096), set()),
    (world(window_tokens=4000), {("warn", "map-tokens")}),
    (world(window_tokens=NO, map_tokens=100_000), set()),
    (world(restore_chat_history=True), {("warn", "history-restored")}),
    (world(max_chat_history_tokens=8192), set()),
    (world(max_chat_history_tokens=8193), {("warn", "history-tokens")}),
    (world(auto_test=True), {("info", "auto-test")}),
    (world(auto_test=True, test_cmd="pytest"), {("warn", "auto-test"), ("info", "user-commands")}),
    (world(test_cmd="pytest"), {("info", "auto-test"), ("info", "user-commands")}),
    (world(test_cmd="pytest --tb=short"), {("info", "user-commands")}),
    (world(state_free_bytes=99 << 20), {("warn", "disk-space")}),
    (world(state_free_bytes=NO), {("unknown", "disk-space")}),
    (world(verify_ssl=False), {("info", "tls-unchecked")}),
    (
        world(verify_ssl=False, ollama_api_base="https://gpu", server=server(is_local=False)),
        {("warn", "tls-unchecked"), ("info", "remote-ollama")},
    ),
]


@pytest.mark.parametrize(("facts", "expected"), HABITS)
def test_what_fills_a_window_and_a_disk(facts: Facts, expected: Notable) -> None:
    """Map, history, tests, disk space, certificates: each at its limit and beyond it."""
    assert notable(facts) == expected


@pytest.mark.parametrize(
    ("window", "tokens"), [(4096, 1024), (16384, 2048), (262144, 4096), (0, 1024)]
)
def test_the_default_map_is_aiders(window: int, tokens: int) -> None:
    """An eighth of the window, from 1,024 to 4,096."""
    assert default_map_tokens(window) == tokens


COMMANDS = [
    ("pytest", True),
    ("python -m pytest -x tests", True),
    (".venv/bin/pytest", True),
    ("cd x && pytest", True),
    ("pytest --tb=short", False),
    ("pytest --tb line", False),
    ("pytest --tb=no", False),
    ("pytest --tb=long", True),
    ("pytest --tb=auto", True),
    ("pytest-fast", False),
    ("cargo test", False),
    ("", False),
]


@pytest.mark.parametrize(("command", "is_long"), COMMANDS)
def test_which_test_commands_print_long_tracebacks(command: str, *, is_long: bool) -> None:
    """Pytest, unless it has an option for short ones."""
    assert prints_long_tracebacks(command) == is_long


def test_the_test_command_to_paste_is_the_users_own_and_short() -> None:
    """Its other words stay, and it is quoted for a shell."""
    finding = finding_of(
        world(auto_test=True, test_cmd="python -m pytest -k 'not slow'"), "auto-test"
    )

    assert finding.fix == (
        "aider-guard -- --test-cmd 'python -m pytest -q --tb=short -k '\\''not slow'\\'''"
    )


def test_calls_home_are_one_finding() -> None:
    """Each that is on is named, with the flags that switch them off without the guard."""
    finding = finding_of(
        world(check_update=True, analytics=None, show_release_notes=None), "calls-home"
    )

    assert "new versions, analytics, release notes" in finding.what
    assert finding.fix == "aider --no-check-update --no-analytics --no-show-release-notes"


def test_a_test_runner_stands_in_for_a_command() -> None:
    """Auto-test without a command: the evidence is the test runner of the repository."""
    facts = world(auto_test=True, repo=RepoFacts(test_runner="tox"))
    assert finding_of(facts, "auto-test").evidence == "tox"
