"""Settings of Aider that fill a small window: the repository map, the history, and what tests print."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, warn
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.facts import Facts

_SHORT_TRACEBACK = re.compile(r"--tb[= ](short|line|no|native)\b|(?:^|\s)-\w*q|--no-traceback")
_PYTEST = re.compile(r"(?:^|[\s/;&|])(?:py\.test|pytest)(?=$|\s)")


def repository_map(facts: Facts) -> Iterator[Finding]:
    """A map beyond a quarter of the window."""
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
    """What Aider takes by itself: an eighth of the window, 1,024 to 4,096 (models.py, get_repo_map_tokens)."""
    return min(max(window // 8, 1024), 4096)


def _quarter(window: int) -> int:
    """At most a quarter, in round numbers where there is room for them."""
    quarter = window // 4
    return quarter // 256 * 256 if quarter >= 256 else quarter


def history(facts: Facts) -> Iterator[Finding]:
    """History beyond half of the window, and all of it at once."""
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


def tests(facts: Facts) -> Iterator[Finding]:
    """Tests after each edit, and tracebacks of many lines: both go into the window."""
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
    what = f"what the tests print goes into the window {when}"
    yield info("auto-test", what, _where(settings, command), fix or "aider-guard -- --no-auto-test")


def _where(settings: AiderSettings, command: str) -> str:
    name = "auto_test" if settings.auto_test else "test_cmd"
    where = settings.sources.get(name, "")
    return f"{command}; {where}" if where else command


def prints_long_tracebacks(command: str) -> bool:
    """Whether a command is pytest with its long tracebacks."""
    return bool(_PYTEST.search(command)) and not _SHORT_TRACEBACK.search(command)


def _shortened(command: str) -> str:
    found = _PYTEST.search(command)
    return f"{command[: found.end()]} -q --tb=short{command[found.end() :]}" if found else command


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"
