"""Is there an Aider, which one, and can it read its settings."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, stop, unknown, warn
from aider_guard.core.ollama_versions import release
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import TRIED_VERSIONS, AiderSettings
from aider_guard.launch.facts import Facts

OLDEST = (0, 80)
_UNRESOLVED = "Aider's models cannot be resolved"  # of inside/describing.py: an Aider never tried
_UPGRADE = "python -m pip install --upgrade aider-chat"


def found(facts: Facts) -> Iterator[Finding]:
    """Which Aider runs. Without one, that is all there is to say of it."""
    if facts.aider_problem:
        yield stop("aider-missing", facts.aider_problem, "", "pipx install aider-chat")
    elif isinstance(facts.settings, Unavailable):
        reason = facts.settings.reason
        what = "Aider did not tell what it will use, so models, keys and addresses are unchecked"
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
        yield info("aider-untried", "this version of Aider was never tried", f"tried: {tried}")


def readable(facts: Facts) -> Iterator[Finding]:
    """Every file or option that Aider would stumble over."""
    if isinstance(facts.settings, Unavailable) or facts.aider_problem:
        return
    for problem in filter(None, facts.settings.problems):
        say = unknown if problem.startswith(_UNRESOLVED) else stop
        yield say(
            "aider-settings", problem, "", "correct it; until then Aider does not do what it says"
        )


def are_roles_known(settings: AiderSettings) -> bool:
    """Whether Aider could tell its models; where it names none, it has none."""
    return not any(problem.startswith(_UNRESOLVED) for problem in settings.problems)
