"""How full the window is, as ``status`` shows it."""

from __future__ import annotations

from core.histories_of_events import UNKNOWN, at_first_prompt

from aider_guard.core.events import PromptShown
from aider_guard.session import control
from aider_guard.view import status


def test_a_measured_fill_is_not_called_an_estimate() -> None:
    """After a command that may have changed the chat it is one again, and before the first turn nothing is known."""
    story = at_first_prompt()
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert (facts["used_tokens"], facts["used_is_measured"]) == (None, False)
    assert "context   not measured yet; window 10,000 tokens" in status.table([facts])

    story.measured_turn(5_000, 100, estimate=UNKNOWN)
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert (facts["used_tokens"], facts["used_is_measured"]) == (5_100, True)
    assert "context   51 % full: 5,100 of 10,000 tokens" in status.table([facts])

    story.tell(PromptShown())
    facts = control.session_facts(story.state, session_id="id", pid=1)
    assert "context   about 51 % full: 5,100 of 10,000 tokens" in status.table([facts])
    del facts["used_is_measured"]  # a session of an older guard does not say
    assert "about 51 %" in status.table([facts])
