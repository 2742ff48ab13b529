"""Which layer keeps Aider in, and why no better one does."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core import egress_messages
from aider_guard.core.egress import ENFORCED, Found
from aider_guard.core.egress_messages import layer_in_words
from aider_guard.core.findings import Finding, info, stop, unknown, warn
from aider_guard.core.readings import Unavailable
from aider_guard.launch.facts import NOT_TRIED, Facts


def found(facts: Facts) -> Iterator[Finding]:
    """The layer of a session. One that must be enforced and is not is a reason to stop, known or not."""
    if facts.config.network == "open":
        yield info("air-gap", layer_in_words("open"), "network is open")
    elif facts.config.require_airgap and not facts.is_held:
        yield stop("air-gap", egress_messages.NOT_ENFORCED, *_because(facts.air_gap))
    elif isinstance(facts.air_gap, Found):
        say = info if facts.air_gap.layer in ENFORCED else warn
        yield say("air-gap", layer_in_words(facts.air_gap.layer), *_because(facts.air_gap))
    elif facts.air_gap != NOT_TRIED:
        what = "how well the air gap holds here is not known"
        yield unknown("air-gap", what, facts.air_gap.reason)


def _because(air_gap: Found | Unavailable) -> tuple[str, str]:
    """Why it is no better layer, and the setting that would change it."""
    if isinstance(air_gap, Unavailable):
        return air_gap.reason, ""
    return egress_messages.in_words(air_gap.because), egress_messages.fix(air_gap.because)
