"""The recogniser of prompts of plain text, on recorded sessions and among output that imitates them.

A recording holds a NUL where Aider fell silent and the next keys were typed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.events import PromptClosed, PromptShown
from aider_guard.core.plain_screen import PlainRecogniser
from aider_guard.core.screen import KEPT_BYTES, ShownPrompt

PLAIN = Path(__file__).parents[1] / "captures" / "plain"
BOTH = {
    "no_fancy_input": ("Readonly: NOTES.md", "Editable: calc.py"),
    "dumb": ("NOTES.md (read only)", "calc.py"),
}
RULE = "─".encode() * 60 + b"\r\n"


def at_silences(name: str) -> list[PromptShown | None]:
    """The prompt of each moment of silence; one that is there is taken as open."""
    screen, found = PlainRecogniser(), []
    for output in (PLAIN / f"{name}.bytes").read_bytes().split(b"\0"):
        screen.feed(output)
        found.append(screen.prompt())
        screen.prompt_open = screen.prompt_open or found[-1] is not None
    return found


@pytest.mark.parametrize(("name", "files"), BOTH.items())
def test_recorded_sessions(name: str, files: tuple[str, ...]) -> None:
    """The main prompts are found; the lines of a ``{`` block, a line half typed and a question are none."""
    one, asks = PromptShown(files=("calc.py",)), PromptShown("ask", files=files)
    assert at_silences(name) == [
        *(PromptShown(), PromptShown(), one, PromptShown(files=files), asks),
        # {, one, an empty line, }
        *(None, None, None, asks),
        # half a line, Ctrl-C
        *(None, asks),
        # a question, n
        *(None, asks),
        # two messages at once, an empty one, /exit
        *(asks, asks, None),
    ]


@pytest.mark.parametrize("name", BOTH)
def test_any_chunking_is_the_same(name: str) -> None:
    """An open prompt closes once, at the end of its line, and what follows is the same byte by byte."""
    recorded = (PLAIN / f"{name}.bytes").read_bytes().split(b"\0")
    whole, single = PlainRecogniser(), PlainRecogniser()
    for output in recorded:
        closes = whole.feed(output)
        bytewise = [event for byte in output for event in single.feed(bytes([byte]))]
        assert tuple(bytewise) == closes
        assert whole.prompt() == single.prompt()
        whole.prompt_open = single.prompt_open = whole.prompt_open or whole.prompt() is not None


MAIN = [
    (b"\r\n> ", PromptShown()),
    (RULE + b"> ", PromptShown()),
    (b"text\r\n\r\nmulti> ", PromptShown(multiline=True)),
    (b"text\r\n" + RULE + b"architect multi> ", PromptShown("architect", multiline=True)),
    (RULE + b"a b.py\r\n\r\nc.py\r\n> ", PromptShown(files=("c.py",))),
    ("\r\ngröße.py\r\nask> ".encode(), PromptShown("ask", files=("größe.py",))),
    (b"\r\n\xff.py\r\n> ", PromptShown(files=("\ufffd.py",))),
]
OTHERS = [
    b"",
    b"> ",
    b"ask> ",
    b"text\r\n> ",
    b"\r\n>",
    b"\r\n> text",
    b"\r\n> text ends in > ",
    b"\r\n>>> ",
    b"\r\n> \r\n",
    b"\r\nask> {\r\nask> ",
    b"\r\nAdd file to the chat? (Y)es/(N)o [Yes]: ",
    b"\n\n> ",
]


@pytest.mark.parametrize(("output", "prompt"), MAIN)
def test_a_main_prompt(output: bytes, prompt: PromptShown) -> None:
    """A rule or an empty line, names of files, and the mode."""
    screen = PlainRecogniser()
    screen.feed(output)
    assert screen.prompt() == prompt
    assert screen.shown_prompt() is None
    screen.prompt_open = True
    assert screen.shown_prompt() == ShownPrompt(b"", output.rpartition(b"\n")[2], 0)
    assert (screen.cursor_row(), screen.line()) == (0, None)


@pytest.mark.parametrize("output", OTHERS)
def test_other_output(output: bytes) -> None:
    """What only resembles a prompt is none."""
    screen = PlainRecogniser()
    screen.feed(output)
    assert screen.prompt() is None


def test_keys_at_a_prompt() -> None:
    """Their echo leaves it open, and belongs to its line; the end of the line closes it."""
    screen = PlainRecogniser()
    screen.feed(b"\r\n> ")
    screen.prompt_open = True
    assert screen.feed(b"hello") == ()
    assert screen.shown_prompt() == ShownPrompt(b"", b"> hello", 0)
    assert screen.feed(b"\r\n\r\n> ") == (PromptClosed(),)
    assert (screen.prompt_open, screen.prompt()) == (False, PromptShown())


def test_long_output_is_forgotten() -> None:
    """What is kept is bounded, begins with a whole line, and a rule that is cut off is no rule any more."""
    screen = PlainRecogniser()
    screen.feed(b"\r\n" + b"x" * KEPT_BYTES + b"\r\n> ")
    assert screen.prompt() is None
    for _ in range(3):
        screen.feed(b"line\r\n" * KEPT_BYTES)
    screen.feed(b"\r\n> ")
    assert screen.prompt() == PromptShown()


@given(st.lists(st.sampled_from([b"\r\n", b"> ", b"ask> ", RULE, b"\x1b[K", b"\xe2", b"x", b"\n"])))
def test_never_raises(pieces: list[bytes]) -> None:
    """Whatever the bytes are."""
    screen = PlainRecogniser()
    for piece in pieces:
        screen.feed(piece)
        screen.prompt_open = screen.prompt() is not None
        screen.shown_prompt()
