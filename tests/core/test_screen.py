"""The recogniser on recorded sessions, in any chunking, and among output that imitates prompts."""

from __future__ import annotations

import time

import pytest
from core.recordings import (
    ACCEPTED,
    CLOSED,
    ERASED,
    NAMES,
    OPENED,
    QUERY,
    SHOWN,
    confirm,
    drawn,
    main_prompt,
    recorded,
    rule,
)
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.events import (
    ConfirmShown,
    ContinuationShown,
    PromptClosed,
    PromptRedrawn,
    PromptShown,
)
from aider_guard.core.screen import Recogniser, ScreenEvent

CLOSE, CONFIRM, OTHER = PromptClosed(), ConfirmShown(), ContinuationShown()
NOTES, CALC = "Readonly: READ ME.md", "Editable: calc.py"
NARROW = (NOTES, "", "Editable:", "a > b.py", "calc.py", "some_quite_long_fol…")


def main(*files: str, mode: str = "", multiline: bool = False, empty: bool = True) -> PromptShown:
    return PromptShown(mode, multiline, empty, files)


RECORDED: dict[str, tuple[ScreenEvent, ...]] = {
    # /chat-mode code, /context, Ctrl-C, /exit
    "architect": (
        *(main("calc.py", mode="architect"), CLOSE, main("calc.py"), CLOSE),
        *(main("calc.py", mode="context"), CLOSE, main("calc.py", mode="context"), CLOSE),
    ),
    # /multiline-mode, /exit with Alt-Enter
    "architect_multi": (
        *(main(mode="architect"), CLOSE),
        *(main(mode="architect", multiline=True), CLOSE),
    ),
    # /add, /read-only, /ask, a message, /exit
    "commands": (
        *(main(), CLOSE, main("calc.py"), CLOSE, main(NOTES, CALC), CLOSE),
        *(main(NOTES, CALC, mode="ask"), CLOSE, main(NOTES, CALC, mode="ask"), CLOSE),
    ),
    # /add of a file that is not there, n, a { block of two lines, Ctrl-C, /exit
    "confirm": (
        *(main(), CLOSE, CONFIRM, CLOSE),
        *(main(), CLOSE, OTHER, CLOSE, OTHER, CLOSE, main(), CLOSE),
    ),
    # half a line, Ctrl-C twice
    "ctrl_c": (main("calc.py"), CLOSE, main("calc.py"), CLOSE),
    # /multiline-mode with Alt-Enter, /multiline-mode below an empty line, /exit
    "multiline": (
        *(main("calc.py"), CLOSE, main("calc.py", multiline=True), CLOSE),
        *(main("calc.py"), CLOSE),
    ),
    # 20 columns: files one after the other, so many that their lines wrap; a confirm across five lines
    "narrow": (
        *(main(NOTES, CALC), CLOSE, main(NOTES, "", "Editable: a > b.py", "calc.py"), CLOSE),
        *(main(*NARROW), CLOSE, CONFIRM, CLOSE, main(*NARROW), CLOSE),
    ),
    # --no-pretty: an empty line stands for the rule
    "no_pretty": (
        *(main("calc.py"), CLOSE, CONFIRM, CLOSE),
        *(main("calc.py"), CLOSE, main("calc.py", mode="ask"), CLOSE),
    ),
    # a /run that failed: its output added, "What's wrong? Fix" filled in, Ctrl-C, /exit
    "placeholder": (
        *(main("calc.py"), CLOSE, CONFIRM, CLOSE),
        *(main("calc.py", empty=False), CLOSE, main("calc.py"), CLOSE),
    ),
    # smaller, a word, larger, the word erased, smaller, /exit; each resize draws twice
    "resize": (
        *(main("calc.py"), PromptRedrawn(), PromptRedrawn()),
        *(PromptRedrawn(empty=False), PromptRedrawn(empty=False)),
        *(PromptRedrawn(), PromptRedrawn(), CLOSE),
    ),
    # 20 columns and 5 rows
    "tiny": (
        *(main(), CLOSE, main("a > b.py"), CLOSE),
        *(main("a > b.py", mode="ask"), CLOSE),
    ),
    # the same with more files than fit
    "tiny_files": (main(NOTES), CLOSE, main(NOTES), CLOSE),
    # a message whose answer is cut off, the question about it, n, /exit
    "token_limit": (main(mode="ask"), CLOSE, CONFIRM, CLOSE, main(mode="ask"), CLOSE),
    # vim inside /run, which pastes in brackets itself; the question about its output; /exit
    "vim": (main("calc.py"), CLOSE, OTHER, CLOSE, CONFIRM, CLOSE, main("calc.py"), CLOSE),
}


def events(data: bytes, cuts: tuple[int, ...] = ()) -> tuple[ScreenEvent, ...]:
    """The events of a new recogniser for *data*, fed in pieces that end at *cuts*."""
    screen = Recogniser()
    said: list[ScreenEvent] = []
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        said += screen.feed(data[start:end])
    return tuple(said)


def test_every_recording_is_told() -> None:
    """No recorded session is left out of the table."""
    assert list(RECORDED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recorded_sessions_are_recognised(name: str) -> None:
    """What a real Aider showed is what the recogniser says it showed."""
    assert events(recorded(name)) == RECORDED[name]


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_at_a_time_says_the_same(name: str) -> None:
    """Bytes that come one by one tell the same, inside escape sequences and letters too."""
    data = recorded(name)
    assert events(data, tuple(range(len(data)))) == RECORDED[name]


@given(st.sampled_from(NAMES), st.lists(st.integers(0, 20_000), max_size=40))
def test_any_chunking_of_a_session_says_the_same(name: str, cuts: list[int]) -> None:
    """However a session's bytes are cut, the events are equal."""
    assert events(recorded(name), tuple(cuts)) == RECORDED[name]


PIECES = st.sampled_from(
    [
        *(OPENED, CLOSED, SHOWN, QUERY, ACCEPTED, ERASED, rule(), rule(3), main_prompt()),
        *(main_prompt("ask> "), main_prompt("a.py\n> half typed"), confirm(), drawn("> ")),
        *(drawn("vim"), b"\r\n", b"\n", b"> ", b"(Y)es/(N)o [Yes]: ", "─".encode(), b"\x07"),
        *(b"\x1b[?1049h\x1b[22;0;0t", b"\x1b]0;a title", b"\x1b]0;a title\x07", b"\x1bP+q\x1b\\"),
        *(b"\xe2\x94", b"\xff\xfe", b"\x1b", b"\x1b[", b"\x1b[9999A", b"x" * 17_000),
    ]
)
OUTPUT = st.lists(PIECES | st.binary(max_size=20), max_size=25).map(b"".join)


@given(OUTPUT, st.lists(st.integers(0, 60_000), max_size=20))
def test_any_chunking_of_anything_says_the_same(data: bytes, cuts: list[int]) -> None:
    """Also for imitations, torn sequences and garbage: equal bytes, equal events and equal prompts on the screen."""
    whole, pieces = Recogniser(), Recogniser()
    said = whole.feed(data)
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)})
    again = tuple(
        event
        for start, end in zip([0, *ends], [*ends, len(data)], strict=True)
        for event in pieces.feed(data[start:end])
    )
    assert again == said
    assert (pieces.main_prompt_open, pieces.prompt_open) == (
        whole.main_prompt_open,
        whole.prompt_open,
    )
    assert pieces.shown_prompt() == whole.shown_prompt()


@given(OUTPUT | st.binary(max_size=300))
def test_nothing_keeps_the_real_prompt_from_being_seen(output: bytes) -> None:
    """Whatever was printed, the main prompt that follows it on a line of its own is recognised, and nothing raises."""
    screen = Recogniser()
    screen.feed(output + b"\r\n")
    screen.cursor_row()
    said = screen.feed(main_prompt("architect multi> "))
    assert said[-1:] == (PromptShown("architect", multiline=True, empty=True),)
    assert screen.main_prompt_open


HOSTILE = {
    "an imitation of the main prompt": main_prompt("> "),
    "an imitation with text typed into it": main_prompt("> rm -rf ."),
    "an imitation that was answered": main_prompt("> ") + ACCEPTED,
    "an imitation of a resize": main_prompt("> ") + ERASED,
    "a rule and nothing else": rule(),
    "an imitation of a confirm": confirm(),
    "the words of a confirm": b"Proceed? (Y)es/(N)o [Yes]: ",
    "a prompt opened, never drawn": OPENED,
    "a rule, a prompt opened, never drawn": rule() + OPENED + b"> ",
    "a prompt closed that was never open": CLOSED,
    "opened and closed at once": OPENED + CLOSED,
    "a title without an end": b"\x1b]0;" + b"x" * 100,
    "300 kB without a newline": b"x" * 300_000,
    "a prompt opened, then 300 kB": OPENED + b"x" * 300_000,
    "a prompt shown, then 300 kB": main_prompt() + b"x" * 300_000,
    "rules without end": "─".encode() * 100_000,
    "a number too long for Python": OPENED + b"\x1b[" + b"9" * 5000 + b"A" + SHOWN,
    "half a letter": b"\xe2\x94",
    "half an escape": b"\x1b[?200",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_after_hostile_output_the_real_prompt_is_seen(name: str) -> None:
    """A model, or a file that was printed, can imitate what it likes: the real prompt after it is recognised."""
    screen = Recogniser()
    screen.feed(b"I will now print:\r\n" + HOSTILE[name] + b"\r\n")
    said = screen.feed(main_prompt("ask> "))
    assert said[-1:] == (PromptShown("ask"),)
    assert screen.feed(ACCEPTED) == (CLOSE,)
    assert not screen.prompt_open


@pytest.mark.parametrize("name", HOSTILE)
def test_after_hostile_output_the_real_confirm_is_seen(name: str) -> None:
    """A confirm after an imitation is a confirm, and never leaves the imitation's main prompt open."""
    screen = Recogniser()
    screen.feed(HOSTILE[name] + b"\r\n")
    assert screen.feed(confirm())[-1:] == (CONFIRM,)
    assert not screen.main_prompt_open


SLOW = {
    "rules": "─".encode() * 5400 + OPENED + SHOWN,
    "colours": b"\x1b[m" * 5400 + OPENED + SHOWN,
    "confirms": OPENED + (b"(Y)es/(N)o" * 48 + b"\r\n") * 499 + SHOWN,
    "prompts": OPENED + (b"a-" * 250 + b"\r\n") * 499 + SHOWN,
    "openings": (OPENED + CLOSED) * 1000,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_output_takes_long_to_look_at(name: str) -> None:
    """Output made to be slow to search does not hold up the keyboard."""
    screen = Recogniser()
    at_first_prompt = time.process_time()
    for _ in range(5):
        screen.feed(SLOW[name] + ACCEPTED)
    assert time.process_time() - at_first_prompt < 2.5


@pytest.mark.parametrize("ending", [SHOWN, CLOSED, SHOWN + ACCEPTED])
def test_a_prompt_beyond_all_bounds_is_the_same_in_any_chunking(ending: bytes) -> None:
    """Where a drawn prompt is longer than what is kept, the events still do not depend on the chunks."""
    data = rule() + OPENED + b"> " + b"x" * 600_000 + ending + main_prompt()
    assert events(data, tuple(range(0, len(data), 65_536))) == events(data)
    assert events(data)[-1] == PromptShown()


MODES = [
    ("> ", main()),
    ("ask> ", main(mode="ask")),
    ("architect> ", main(mode="architect")),
    ("multi> ", main(multiline=True)),
    ("ask multi> ", main(mode="ask", multiline=True)),
    ("diff-fenced> ", main(mode="diff-fenced")),
    ("> hello", main(empty=False)),
    ("ask> What's wrong? Fix", main(mode="ask", empty=False)),
    ("> one\ntwo", main(empty=False)),
    ("a.py\n> ", main("a.py")),
    ("größe.py 文件.py\nask> ", main("größe.py 文件.py", mode="ask")),
    ("a > b.py\n> ", main("a > b.py")),
    ("dir/x>y.py\n> ", main("dir/x>y.py")),
    ("A>B.py\n> ", main("A>B.py")),
]


@pytest.mark.parametrize(("text", "expected"), MODES)
def test_modes_and_files_are_read_from_the_prompt(text: str, expected: PromptShown) -> None:
    """The prompt names the mode, multiline and the files; text after it means that its line is not empty."""
    assert events(main_prompt(text)) == (expected,)


@pytest.mark.parametrize("name", ["x>y.py", "foo>", ">", "multi>x", "ask> note.md"])
def test_a_file_that_looks_like_a_prompt_never_makes_it_empty(name: str) -> None:
    """A file name that reads like a prompt may hide that the line is empty, but never that it holds text."""
    for typed in ("", "half a word", "> "):
        (said,) = events(main_prompt(f"{name}\n> {typed}"))
        assert isinstance(said, PromptShown)
        assert not (typed and said.empty)


def test_a_main_prompt_needs_its_rule() -> None:
    """What opens without a rule before it is no main prompt, whatever its text is."""
    assert events(b"text\r\n" + drawn("> ")) == (OTHER,)
    assert events(b"text" + b"\r\n" + rule() + b"more\r\n" + drawn("> ")) == (OTHER,)


def test_without_colours_an_empty_line_stands_for_the_rule() -> None:
    """With --no-pretty the main prompt follows an empty line, with the query for the cursor or a bell between."""
    for between in (b"", QUERY, b"\x07", b"\x07" + QUERY):
        assert events(b"done\r\n\r\n" + between + drawn("> ")) == (main(),)
    assert events(b"done\r\n" + drawn("> ")) == (OTHER,)


def test_a_question_wins_over_what_looks_like_a_prompt() -> None:
    """A confirm is one even below a rule and with a line that looks like a prompt: its default is Yes."""
    assert events(rule() + drawn("> a.py\nDelete it? (Y)es/(N)o [Yes]: ")) == (CONFIRM,)
    assert events(rule() + drawn("> (Y)es/(N)o/(A)ll/(S)kip all [No]: ")) == (CONFIRM,)


def test_a_confirm_split_by_the_right_edge_is_one() -> None:
    """prompt_toolkit writes the last column of a wrapped line by itself; the words are found all the same."""
    split = b"Run shell command? (\r\x1b[20CY\x1b[0m\r\r\n)es/(N)o [Yes]: "
    assert events(OPENED + b"\x1b[?7l" + split + SHOWN) == (CONFIRM,)


def test_the_lines_of_a_block_are_no_main_prompts() -> None:
    """The lines of a { block open right after the line before was entered, without a rule."""
    block = main_prompt() + ACCEPTED[:-2] + drawn("> ") + ACCEPTED[:-2] + QUERY + drawn("> ")
    assert events(block) == (main(), CLOSE, OTHER, CLOSE, OTHER)


def test_a_resize_is_no_new_prompt_and_no_answer() -> None:
    """The prompt is drawn again: its line may hold text by now, and nothing was closed."""
    data = main_prompt() + ERASED + drawn("> half") + ERASED + drawn("> ") + ACCEPTED
    expected = (main(), PromptRedrawn(empty=False), PromptRedrawn(), CLOSE)
    assert events(data) == expected


def test_a_confirm_drawn_again_stays_a_confirm() -> None:
    """A resize during a question does not make a main prompt of it."""
    assert events(confirm() + ERASED + confirm() + ERASED + drawn("> ")) == (
        CONFIRM,
        CONFIRM,
        OTHER,
    )


def test_output_between_ends_a_redraw() -> None:
    """After text, an opening without a rule is no redraw of the main prompt before."""
    assert events(main_prompt() + ERASED + b"text\r\n" + drawn("> ")) == (main(), OTHER)


@pytest.mark.parametrize(
    "text", ["> (Y)es/(N)o", "> [Yes]:", "> [Yes]: (Y)es/(N)o", "> (Y)es/(N)o [Maybe]:"]
)
def test_a_confirm_needs_its_choice_and_then_its_default(text: str) -> None:
    """With less of it below a rule, the user types into the main prompt."""
    assert events(rule() + drawn(text)) == (main(empty=False),)


def test_a_prompt_that_was_never_drawn_does_not_hold_up_the_next() -> None:
    """Both come in one piece."""
    assert events(OPENED + CLOSED + b"\r\n" + main_prompt()) == (main(),)


@pytest.mark.parametrize(("opening", "event"), [(OPENED + b"> ", OTHER), (OPENED, OTHER)])
def test_what_is_not_drawn_in_256_kib_counts_as_shown(opening: bytes, event: ScreenEvent) -> None:
    """It does so with the last byte of them, and is no main prompt though a rule stands before it."""
    screen = Recogniser()
    assert screen.feed(rule() + opening.ljust(256 * 1024 - 1, b"x")) == ()
    assert screen.feed(b"x") == (event,)
    assert screen.prompt_open


def test_after_256_kib_of_typing_the_prompt_cannot_be_put_back() -> None:
    """Up to then it can, and its cursor is known."""
    screen = Recogniser()
    prompt = drawn("> ")
    screen.feed(rule() + prompt + b"\n" * 3 + b"x" * (256 * 1024 - len(prompt) - 3))
    assert screen.shown_prompt() is not None
    assert screen.cursor_row() == 3
    screen.feed(b"\n")
    assert (screen.shown_prompt(), screen.cursor_row(), screen.main_prompt_open) == (None, 0, True)
    assert screen.feed(ACCEPTED) == (CLOSE,)


def test_before_a_prompt_is_drawn_its_cursor_is_nowhere() -> None:
    """Its rows are not known yet."""
    screen = Recogniser()
    screen.feed(rule() + OPENED + b"a.py\r\n> ")
    assert screen.cursor_row() == 0


def test_the_last_16_kib_before_a_prompt_are_kept() -> None:
    """No rule is so long: one that is counts by its end."""
    screen = Recogniser()
    screen.feed(main_prompt(columns=6000))
    shown = screen.shown_prompt()
    assert shown is not None
    assert len(shown.rule) == 16 * 1024


def test_a_program_in_front_of_the_prompt_takes_it_off() -> None:
    """An opening while a prompt is open: the new one counts, the old one is not open any more."""
    screen = Recogniser()
    assert screen.feed(main_prompt()) == (main(),)
    assert screen.feed(OPENED) == ()
    assert not screen.main_prompt_open
    assert screen.feed(b"-- INSERT --" + SHOWN) == (OTHER,)
    assert screen.prompt_open
    assert not screen.main_prompt_open
    assert screen.feed(b"\r\n" + main_prompt("ask> ")) == (main(mode="ask"),)
