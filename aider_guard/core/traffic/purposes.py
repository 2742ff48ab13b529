"""What Aider wants of a model, seen by the shape of the prompt.

The phrases are from Aider's ``prompts.py`` and ``coders/*_prompts.py``, the same from 0.80 to 0.86. They are looked for
in the system text alone, anywhere in it: a model's settings may put a prefix before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aider_guard.core.traffic.asked import Message
from aider_guard.core.traffic.kinds import Purpose

_COMMIT: Final = "expert software engineer that generates concise, one-line Git commit messages"
_DIFFS: Final = "# Diffs:\n"
_SUMMARY: Final = "*Briefly* summarize this partial conversation about programming."
_EDITORS: Final = (
    "Act as an expert software developer who edits source code.",
    "Act as an expert software developer and make changes to source code.",
)
_FENCED_EDITOR_WITH: Final = "ONLY EVER RETURN CODE IN A *SEARCH/REPLACE BLOCK*!"
_FENCED_EDITOR_WITHOUT: Final = (
    "*Concisely* suggest any shell commands",
    "Keep in mind these details about the user's platform and environment:",
)
"""``editor-diff-fenced`` is ``diff-fenced`` without any words on the shell or the platform."""
_CHAT: Final = ("Act as an expert", "You are an expert on the AI coding tool called Aider.")
_CONTEXT: Final = (
    "solely to determine ALL the existing sources files which will need to be modified"
)
_NO_SYSTEM_REPLY: Final = "Ok."


def system_text(messages: Sequence[Message]) -> str:
    """The system text of a prompt; "" for none. With ``use_system_prompt: false`` it is the user's first message,
    answered by "Ok.".
    """
    match messages:
        case [Message("system", content), *_]:
            return content
        case [Message("user", content), Message("assistant", reply), _, *_] if (
            reply == _NO_SYSTEM_REPLY
        ):
            return content
        case _:
            return ""


def purpose(messages: Sequence[Message], *, stream: bool) -> Purpose:
    """What a request is for; ``other`` when it is none of Aider's."""
    system = system_text(messages)
    if not stream and len(messages) == 2:  # simple_send_with_retries: system text and one message
        if _SUMMARY in system:
            return "summary"
        # A user may have a prompt for commit messages of his own (--commit-prompt): the diffs show it.
        if _COMMIT in system or _has_diffs(messages[1].content):
            return "commit"
    if any(phrase in system for phrase in _EDITORS) or _is_fenced_editor(system):
        return "edit"
    return "chat" if any(phrase in system for phrase in _CHAT) else "other"


def wants_files_only(messages: Sequence[Message]) -> bool:
    """Whether Aider takes every file that the answer names into the chat, and drops all others (context mode)."""
    return _CONTEXT in system_text(messages)


def _has_diffs(content: str) -> bool:
    return content.startswith(_DIFFS) or f"\n{_DIFFS}" in content


def _is_fenced_editor(system: str) -> bool:
    return _FENCED_EDITOR_WITH in system and not any(
        phrase in system for phrase in _FENCED_EDITOR_WITHOUT
    )
