"""Every command of the texts is typed by a new user in a test, or has a reason why it is not."""

from __future__ import annotations

import re

import pytest
from pasted_commands import NOT_TYPED, PRINTS, filled, pasted


def reasons(command: str) -> list[str]:
    """Why a command is not typed."""
    return [why for pattern, why in NOT_TYPED.items() if re.fullmatch(pattern, command)]


def test_each_command_of_the_texts_is_typed_or_has_a_reason() -> None:
    """A new one in the README cannot be forgotten."""
    assert [each for each in sorted(pasted()) if each not in PRINTS and not reasons(each)] == []


def test_no_row_is_about_a_command_that_the_texts_do_not_have() -> None:
    """Rows go with their commands."""
    commands = pasted()
    assert [each for each in PRINTS if each not in commands] == []
    unused = [p for p in NOT_TYPED if not any(re.fullmatch(p, each) for each in commands)]
    assert unused == []


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("make demo     # a private Aider", "make demo"),
        ("$ aider-guard fit qwen3:8b --vram 16", "aider-guard fit qwen3:8b --vram 16"),
        ("aider-guard status [SESSION\\|FOLDER]", "aider-guard status"),
        (
            "aider-guard resume [SESSION\\|FOLDER] [-- AIDER ARGS]",
            "aider-guard resume -- --model ollama_chat/qwen3:8b",
        ),
        ("aider-guard completion bash\\|zsh\\|fish", "aider-guard completion bash"),
    ],
)
def test_what_stands_for_something_of_the_users_is_filled_in(written: str, typed: str) -> None:
    """As a user would, who also leaves out what is said behind a command."""
    assert filled(written) == typed
