"""What Aider asks the network for by itself, and the room that the guard needs on the disk."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import GUARDED, Finding, info, listed, unknown, warn
from aider_guard.core.messages import size
from aider_guard.core.readings import Unavailable
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import base_url

SMALL_BYTES = 100 * 2**20


def home(facts: Facts) -> Iterator[Finding]:
    """Calls that nobody asked for, all in one finding."""
    if isinstance(facts.settings, Unavailable):
        return
    settings = facts.settings
    on = (
        ("new versions", settings.check_update, "--no-check-update"),
        ("analytics", settings.analytics is not False, "--no-analytics"),
        ("release notes", settings.show_release_notes is not False, "--no-show-release-notes"),
        ("model prices and contexts", True, ""),
    )
    what = f"Aider asks for {listed(name for name, is_on, _ in on if is_on)}; {GUARDED} it does not"
    flags = " ".join(flag for _, is_on, flag in on if is_on and flag)
    hosts = "the package index, us.i.posthog.com, aider.chat, raw.githubusercontent.com"
    yield info("calls-home", what, hosts, f"aider {flags}" if flags else "")


def certificates(facts: Facts) -> Iterator[Finding]:
    """Certificates that are not checked matter where Ollama is behind one."""
    if isinstance(facts.settings, Unavailable) or facts.settings.verify_ssl:
        return
    say = warn if base_url(facts).startswith("https:") else info
    where = facts.settings.sources.get("verify_ssl", "verify-ssl")
    what = "certificates are not checked, so another machine could pose as Ollama's"
    yield say("tls-unchecked", what, where, "aider-guard -- --verify-ssl")


def disk(facts: Facts) -> Iterator[Finding]:
    """Room for the journal and the private histories of a session."""
    match facts.state_free_bytes:
        case Unavailable(reason):
            yield unknown("disk-space", "how much room the journal has is not known", reason)
        case int(free) if free < SMALL_BYTES:
            what = f"only {size(free)} are free where the journal and the histories of a session go"
            yield warn("disk-space", what, "", "df -h ~/.local/state")
