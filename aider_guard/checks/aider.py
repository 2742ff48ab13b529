"""Checks Aider itself: the program, its version, its settings, the settings that fill a small window, the air gap."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aider_guard.core import egress
from aider_guard.core.egress import ENFORCED, LayerChoice, layer_in_words
from aider_guard.core.findings import Finding, info, stop, unknown, warn
from aider_guard.core.ollama_versions import release
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import TRIED_VERSIONS, UNRESOLVED
from aider_guard.launch.facts import NOT_TRIED, Facts


def aider_program(facts: Facts) -> Iterator[Finding]:
    """The Aider that runs, or that there is none."""
    if facts.aider_problem:
        yield stop("aider-missing", facts.aider_problem, "", "pipx install aider-chat")
    elif isinstance(facts.settings, Unavailable):
        reason = facts.settings.reason
        what = "Aider did not report its settings, so models, keys and addresses are not checked"
        yield unknown("aider-settings", what, reason, "aider --exit")
    else:
        version = facts.settings.version
        yield info("aider", f"Aider {version or 'of an unknown version'}", facts.aider_script)
        if () < release(version) < (0, 80):
            what = f"Aider {version} is older than 0.80, which is the oldest that is supported"
            yield warn("aider-old", what, "", "python -m pip install --upgrade aider-chat")
        elif version not in TRIED_VERSIONS:
            what = "the guard was never tried with this version of Aider"
            yield info("aider-untried", what, f"tried: {', '.join(TRIED_VERSIONS)}")


def settings_files(facts: Facts) -> Iterator[Finding]:
    """The files and options that Aider cannot read."""
    if isinstance(facts.settings, Unavailable) or facts.aider_problem:
        return
    for problem in filter(None, facts.settings.problems):
        severity = unknown if problem.startswith(UNRESOLVED) else stop
        fix = "correct it; Aider cannot use it until then"
        yield severity("aider-settings", problem, "", fix)


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


_MANY_FILES = 10_000
"""Aider itself advises the same from 1,000 files on (main.py)."""


def large_repository(facts: Facts) -> Iterator[Finding]:
    """A repository of very many files, all of which Aider reads for its map."""
    files, settings = facts.repo.tracked_files, facts.settings
    if isinstance(settings, Unavailable) or isinstance(files, Unavailable) or files < _MANY_FILES:
        return
    if settings.subtree_only or settings.map_tokens == 0 or facts.repo.has_aiderignore:
        return
    what = f"Aider reads all {files:,} files of the repository for its map, which takes long at the start"
    fix = "aider-guard -- --subtree-only   # in the folder you work in; or --map-tokens 0, or a .aiderignore"
    yield warn("large-repository", what, settings.git_root or "", fix)


def default_map_tokens(window: int) -> int:
    """Aider's own size of the map: an eighth of the window, 1,024 to 4,096 (models.py, get_repo_map_tokens)."""
    return min(max(window // 8, 1024), 4096)


def _quarter(window: int) -> int:
    """At most a quarter of the window, rounded down to 256 tokens where it is more than that."""
    return window // 1024 * 256 or window // 4


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
    settings, command = facts.settings, facts.settings.test_cmd or ""
    long = prints_long_tracebacks(command)
    if not (settings.auto_test or long):
        return
    fix = "aider-guard -- --no-auto-test"
    if long:
        short = _PYTEST.sub(r"\g<0> -q --tb=short", command, count=1)
        fix = "aider-guard -- --test-cmd '" + short.replace("'", "'\\''") + "'"
    source = settings.sources.get("auto_test" if settings.auto_test else "test_cmd", "")
    runner = command or facts.repo.test_runner or "no test command"
    where = f"{runner}; {source}" if source else runner
    if settings.auto_test and long:
        what = "the tests run after each edit, and their whole tracebacks go into the window"
        yield warn("auto-test", what, where, fix)
        return
    when = "after each edit" if settings.auto_test else "with /test"
    yield info("auto-test", f"the output of the tests goes into the window {when}", where, fix)


def prints_long_tracebacks(command: str) -> bool:
    """Whether a command runs pytest with its long tracebacks."""
    return bool(_PYTEST.search(command)) and not _SHORT_TRACEBACK.search(command)


# The layer of the air gap.


def air_gap_layer(facts: Facts) -> Iterator[Finding]:
    """The layer that a session gets. With ``require-airgap`` a layer that is not enforced or not known is a stop."""
    if facts.config.network == "open":
        yield info("air-gap", layer_in_words("open"), "network is open")
    elif facts.config.require_airgap and not facts.is_held:
        yield stop("air-gap", egress.NOT_ENFORCED, *_why_no_better(facts.air_gap))
    elif isinstance(facts.air_gap, LayerChoice):
        layer = facts.air_gap.layer
        severity = info if layer in ENFORCED else warn
        yield severity("air-gap", layer_in_words(layer), *_why_no_better(facts.air_gap))
    elif facts.air_gap != NOT_TRIED:
        what = "how well the air gap works here is not known"
        yield unknown("air-gap", what, facts.air_gap.reason)


def _why_no_better(air_gap: LayerChoice | Unavailable) -> tuple[str, str]:
    """Why it is not a better layer, and the setting that would change that."""
    if isinstance(air_gap, Unavailable):
        return air_gap.reason, ""
    return egress.in_words(air_gap.because), egress.fix(air_gap.because)
