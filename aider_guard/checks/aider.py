"""Checks Aider itself: the program, its version, its settings, the settings that fill a small window, the air gap."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aider_guard.core import egress_messages
from aider_guard.core.egress import ENFORCED, LayerChoice
from aider_guard.core.egress_messages import layer_in_words
from aider_guard.core.findings import Finding, info, stop, unknown, warn
from aider_guard.core.ollama_versions import release
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import TRIED_VERSIONS, AiderSettings
from aider_guard.launch.facts import NOT_TRIED, Facts

OLDEST = (0, 80)
# From inside/describing.py, for an Aider that was never tried.
_UNRESOLVED = "Aider's models cannot be resolved"
_UPGRADE = "python -m pip install --upgrade aider-chat"


def aider_program(facts: Facts) -> Iterator[Finding]:
    """The Aider that runs, or that there is none."""
    if facts.aider_problem:
        yield stop("aider-missing", facts.aider_problem, "", "pipx install aider-chat")
    elif isinstance(facts.settings, Unavailable):
        reason = facts.settings.reason
        what = "Aider did not report its settings, so models, keys and addresses are not checked"
        yield unknown("aider-settings", what, reason, "aider --exit")
    else:
        version = facts.settings.version or "of an unknown version"
        yield info("aider", f"Aider {version}", facts.aider_script)
        yield from _version(facts.settings.version)


def _version(version: str) -> Iterator[Finding]:
    numbers = release(version)
    if numbers and numbers < OLDEST:
        what = f"Aider {version} is older than 0.80, which is the oldest that is supported"
        yield warn("aider-old", what, "", _UPGRADE)
    elif version not in TRIED_VERSIONS:
        tried = ", ".join(TRIED_VERSIONS)
        yield info(
            "aider-untried",
            "the guard was never tried with this version of Aider",
            f"tried: {tried}",
        )


def settings_files(facts: Facts) -> Iterator[Finding]:
    """The files and options that Aider cannot read."""
    if isinstance(facts.settings, Unavailable) or facts.aider_problem:
        return
    for problem in filter(None, facts.settings.problems):
        severity = unknown if problem.startswith(_UNRESOLVED) else stop
        fix = "correct it; Aider cannot use it until then"
        yield severity("aider-settings", problem, "", fix)


def are_roles_known(settings: AiderSettings) -> bool:
    """Whether Aider reported its models; if it did and named none, there are none."""
    return not any(problem.startswith(_UNRESOLVED) for problem in settings.problems)


# Settings that fill a small window: the repository map, the history, and the output of tests.

_SHORT_TRACEBACK = re.compile(r"--tb[= ](short|line|no|native)\b|(?:^|\s)-\w*q|--no-traceback")
_PYTEST = re.compile(r"(?:^|[\s/;&|])(?:py\.test|pytest)(?=$|\s)")


def repository_map(facts: Facts) -> Iterator[Finding]:
    """A repository map of more than a quarter of the window."""
    window = facts.window_tokens
    if isinstance(facts.settings, Unavailable) or isinstance(window, Unavailable) or window <= 0:
        return
    tokens = facts.settings.map_tokens
    if tokens is None:
        tokens = default_map_tokens(window)
    if 4 * tokens > window:
        what = f"the repository map may take {tokens:,} of {window:,} tokens"
        where = facts.settings.sources.get("map_tokens", "Aider's default")
        yield warn("map-tokens", what, where, f"aider-guard -- --map-tokens {_quarter(window)}")


def default_map_tokens(window: int) -> int:
    """Aider's own size of the map: an eighth of the window, 1,024 to 4,096 (models.py, get_repo_map_tokens)."""
    return min(max(window // 8, 1024), 4096)


def _quarter(window: int) -> int:
    """At most a quarter of the window, rounded down to 256 tokens where it is more than that."""
    quarter = window // 4
    return quarter // 256 * 256 if quarter >= 256 else quarter


def chat_history(facts: Facts) -> Iterator[Finding]:
    """A chat history that may take more than half of the window, and one that is read as a whole at the start."""
    if isinstance(facts.settings, Unavailable):
        return
    settings, window = facts.settings, facts.window_tokens
    if settings.restore_chat_history:
        what = "the chat history of all sessions is read at the start, and summarised by the model"
        where = settings.sources.get("restore_chat_history", "restore-chat-history")
        yield warn("history-restored", what, where, "aider-guard -- --no-restore-chat-history")
    tokens = settings.max_chat_history_tokens
    if tokens is not None and isinstance(window, int) and 2 * tokens > window > 0:
        what = f"the chat history may take {tokens:,} of {window:,} tokens before it is summarised"
        where = settings.sources.get("max_chat_history_tokens", "max-chat-history-tokens")
        fix = f"aider-guard -- --max-chat-history-tokens {max(1, _quarter(window))}"
        yield warn("history-tokens", what, where, fix)


def test_output(facts: Facts) -> Iterator[Finding]:
    """Tests after each edit and long tracebacks: their output goes into the window."""
    if isinstance(facts.settings, Unavailable):
        return
    settings = facts.settings
    long = prints_long_tracebacks(settings.test_cmd or "")
    if not (settings.auto_test or long):
        return
    when = "after each edit" if settings.auto_test else "with /test"
    command = settings.test_cmd or facts.repo.test_runner or "no test command"
    fix = (
        f"aider-guard -- --test-cmd {_quoted(_shortened(settings.test_cmd or ''))}" if long else ""
    )
    if settings.auto_test and long:
        what = f"the tests run {when}, and their whole tracebacks go into the window"
        yield warn("auto-test", what, _where(settings, command), fix)
        return
    what = f"the output of the tests goes into the window {when}"
    yield info("auto-test", what, _where(settings, command), fix or "aider-guard -- --no-auto-test")


def _where(settings: AiderSettings, command: str) -> str:
    name = "auto_test" if settings.auto_test else "test_cmd"
    where = settings.sources.get(name, "")
    return f"{command}; {where}" if where else command


def prints_long_tracebacks(command: str) -> bool:
    """Whether a command runs pytest with its long tracebacks."""
    return bool(_PYTEST.search(command)) and not _SHORT_TRACEBACK.search(command)


def _shortened(command: str) -> str:
    match = _PYTEST.search(command)
    return f"{command[: match.end()]} -q --tb=short{command[match.end() :]}" if match else command


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


# The layer of the air gap.


def air_gap_layer(facts: Facts) -> Iterator[Finding]:
    """The layer that a session gets. With ``require-airgap`` a layer that is not enforced or not known is a stop."""
    if facts.config.network == "open":
        yield info("air-gap", layer_in_words("open"), "network is open")
    elif facts.config.require_airgap and not facts.is_held:
        yield stop("air-gap", egress_messages.NOT_ENFORCED, *_why_no_better(facts.air_gap))
    elif isinstance(facts.air_gap, LayerChoice):
        severity = info if facts.air_gap.layer in ENFORCED else warn
        yield severity(
            "air-gap", layer_in_words(facts.air_gap.layer), *_why_no_better(facts.air_gap)
        )
    elif facts.air_gap != NOT_TRIED:
        what = "how well the air gap works here is not known"
        yield unknown("air-gap", what, facts.air_gap.reason)


def _why_no_better(air_gap: LayerChoice | Unavailable) -> tuple[str, str]:
    """Why it is not a better layer, and the setting that would change that."""
    if isinstance(air_gap, Unavailable):
        return air_gap.reason, ""
    return egress_messages.in_words(air_gap.because), egress_messages.fix(air_gap.because)
