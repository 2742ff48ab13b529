"""The ``/tokens`` table: recorded ones, those of a renderer like Aider's, and arbitrary text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.readings import ContextReading, ContextRow, Unavailable
from aider_guard.core.tokens import parse_context, parse_dropped

CAPTURES = Path(__file__).parents[1] / "captures" / "tokens"
TIPS = {
    "system": "",
    "history": "use /clear to clear",
    "map": "use --map-tokens to resize",
    "file": "/drop to remove",
}
LABELS = {"system": "system messages", "history": "chat history", "map": "repository map"}


def parsed(text: str) -> ContextReading:
    reading = parse_context(text, taken_at=5.0)
    assert isinstance(reading, ContextReading), reading
    return reading


def row(kind: str, tokens: int, name: str = "", *, read_only: bool = False) -> ContextRow:
    assert kind in ("system", "history", "map", "file")
    return ContextRow(kind, name, tokens, read_only)  # type: ignore[arg-type]  # a str is checked above


def logged(line: str) -> str:
    """A line as io.py ``append_chat_history`` writes it for a tool."""
    return f"> {line.strip()}".rstrip() + "  \n"


def render(reading: ContextReading, *, cost_each: float = 0.0) -> str:
    """Print a table as commands.py ``cmd_tokens`` of Aider 0.86.2 does."""
    rows = []
    for one in reading.rows:
        label = LABELS.get(one.kind, one.name + (" (read-only)" if one.read_only else ""))
        rows.append((one.tokens, label, TIPS[one.kind]))
    width = max(len(label) for _, label, _ in rows)
    lines = [f"Approximate context window usage for {reading.model}, in tokens:"]
    for tokens, label, tip in rows:
        number = format(tokens, ",").rjust(8)
        lines.append(f"${tokens * cost_each:7.4f} {number} {label.ljust(width)} {tip}")
    lines.append("=" * 18)
    total = format(reading.total_tokens, ",").rjust(8)
    lines.append(f"${reading.total_tokens * cost_each:7.4f} {total} tokens total")
    if isinstance(reading.max_tokens, int):
        remaining = reading.max_tokens - reading.total_tokens
        advice = " (use /drop or /clear to make space)"
        if remaining > 1024:
            tail = "tokens remaining in context window"
        elif remaining > 0:
            tail = "tokens remaining in context window" + advice
        else:
            tail = "tokens remaining, window exhausted" + advice
        lines.append(f"{'':9}{format(remaining, ',').rjust(8)} {tail}")
        lines.append(
            f"{'':9}{format(reading.max_tokens, ',').rjust(8)} tokens max context window size"
        )
    return "".join(logged(line) for line in lines)


names = st.one_of(
    st.sampled_from(
        [
            "chat history",
            "repository map",
            "system messages",
            "12 tokens total",
            "use /clear to clear",
            "a use --map-tokens to resize",
            "x /drop to remove",
            "../outside.md",
            "a$b.py",
            "==================",
            "$ 0.0000 12 tokens total",
            "été 漢字.py",
        ]
    ),
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30
    ).filter(lambda name: name == name.rstrip(" ") and not name.endswith(" (read-only)")),
)
counts = st.integers(0, 10_000_000)
files = st.builds(
    lambda n, name, ro: row("file", n, name, read_only=ro), counts, names, st.booleans()
)


@st.composite
def readings(draw: st.DrawFn) -> ContextReading:
    rows = [row("system", draw(counts))]
    rows += [row(kind, draw(counts)) for kind in ("history", "map") if draw(st.booleans())]
    rows += draw(st.lists(files, max_size=6))
    total = sum(one.tokens for one in rows)
    maximum = draw(st.none() | st.integers(1, 20_000_000))
    unknown = Unavailable("Aider knows no maximum for this model")
    model = draw(st.sampled_from(["ollama_chat/small", "ollama/hf.co/a/b:Q4_K_M", "x, in tokens:"]))
    return ContextReading(model, tuple(rows), total, unknown if maximum is None else maximum, 5.0)


@given(readings(), st.sampled_from([0.0, 0.0123, 0.000001]))
def test_what_aider_prints_is_read_back(reading: ContextReading, cost_each: float) -> None:
    """Every table that Aider's format can print is read back as the same rows and numbers."""
    assert parsed(render(reading, cost_each=cost_each)) == reading


@given(readings(), readings())
def test_the_last_table_counts(first: ContextReading, last: ContextReading) -> None:
    """Of two tables with other text around them the second one is read."""
    text = "\n#### /tokens  \n" + render(first) + "\n#### hello  \n\nHi.\n\n\n#### /tokens  \n"
    assert parsed(text + logged("Dropping gone.py from the chat.") + render(last)) == last


@given(readings(), st.data())
def test_a_table_that_is_cut_short_is_not_read_as_another(
    reading: ContextReading, data: st.DataObject
) -> None:
    """The lines up to any one before the total give no reading."""
    lines = render(reading).splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if line.endswith("tokens total  \n"))
    kept = data.draw(st.integers(0, end))
    assert isinstance(parse_context("".join(lines[:kept]), 5.0), Unavailable)


@given(st.text(max_size=300))
def test_arbitrary_text_is_unavailable(text: str) -> None:
    """Text without a table gives a reason and never raises."""
    result = parse_context(text, 5.0)
    assert isinstance(result, Unavailable)
    assert result.reason


pieces = st.sampled_from(
    [
        "> Approximate context window usage for m, in tokens:  \n",
        "> $ 0.0000    1,948 system messages  \n",
        "> $ 0.0000       12 a.py /drop to remove  \n",
        "> ==================  \n",
        "> $ 0.0000    1,960 tokens total  \n",
        "> -2,605 tokens remaining, window exhausted  \n",
        "> 2,000 tokens max context window size  \n",
        "> 99999999999999999999999999999 tokens max context window size  \n",
        "> $ 0.0000    ,,, a.py /drop to remove  \n",
        "\n",
        "text\n",
        "> ",
    ]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_torn_tables_never_raise(text: str) -> None:
    """Lines of a table in any order give a reading that adds up, or a reason."""
    match parse_context(text, 5.0):
        case ContextReading(rows=rows, total_tokens=total):
            assert abs(sum(one.tokens for one in rows) - total) <= len(rows)
        case Unavailable(reason):
            assert reason


def test_a_chat_with_every_kind_of_row() -> None:
    """A recorded table: names with blanks, from outside, in other scripts, or like other rows."""
    reading = parsed((CAPTURES / "full.txt").read_text(encoding="utf-8"))

    assert reading.model == "ollama_chat/small"
    assert reading.rows == (
        row("system", 1948),
        row("history", 29),
        row("map", 53),
        row("file", 11, "repository map"),
        row("file", 12, "12 tokens total"),
        row("file", 12, "[id].tsx"),
        row("file", 13, "x", read_only=True),  # its name is "x (read-only)", and nothing tells
        row("file", 14, "use /clear to clear"),
        row("file", 15, "a$b.py"),
        row("file", 15, 'we"ird.py'),
        row("file", 18, "été 漢字.py"),
        row("file", 25, "../outside.md", read_only=True),
        row("file", 49, "chat history"),
        row("file", 101, "docs/my notes.md"),
        row("file", 249, "calc.py"),
        row("file", 2408, "big.py"),
    )
    assert (reading.total_tokens, reading.max_tokens, reading.taken_at) == (4972, 8192, 5.0)


@pytest.mark.parametrize(
    ("capture", "kinds", "total", "maximum"),
    [
        ("fresh", ["system", "map"], 4177, 8192),
        ("nomap_nomax", ["system", "file"], 2197, None),
        ("cost", ["system", "map", "file"], 5095, 32768),
        ("exhausted", ["system", "file", "file"], 4605, 2000),
        ("tight", ["system", "file", "file"], 4605, 5000),
        ("architect", ["system", "file", "file"], 2759, 5000),
    ],
)
def test_recorded_tables(capture: str, kinds: list[str], total: int, maximum: int | None) -> None:
    """Recorded tables: no map, no maximum, costs, a window almost and wholly used up."""
    reading = parsed((CAPTURES / f"{capture}.txt").read_text(encoding="utf-8"))

    assert [one.kind for one in reading.rows] == kinds
    assert reading.total_tokens == total
    assert (reading.max_tokens if isinstance(reading.max_tokens, int) else None) == maximum


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no /tokens table"),
        ("Approximate context window usage for m, in tokens:  \n", "no /tokens table"),
        ("> Approximate context window usage for m, in tokens:  \n", "no end"),
        (
            (
                "> Approximate context window usage for m, in tokens:  \n"
                "> $ 0.0000       12 system messages  \n> ==================  \n"
            ),
            "not complete",
        ),
        (
            (
                "> Approximate context window usage for m, in tokens:  \n"
                "> $ 0.0000       12 system messages  \n> ==================  \n"
                "> $ 0.0000       99 tokens total  \n"
            ),
            "do not add up",
        ),
        (
            (
                "> Approximate context window usage for m, in tokens:  \n"
                "> $ 0.0000       12 a.py /drop to remove  \n> ==================  \n"
                "> $ 0.0000       12 tokens total  \n"
            ),
            "unknown form",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    """A text that holds no usable table names what is missing."""
    result = parse_context(text, 5.0)
    assert isinstance(result, Unavailable)
    assert reason in result.reason


def test_an_older_complete_table_is_used_when_the_newest_is_torn() -> None:
    """A table that is still being written does not hide the one before it."""
    whole = (CAPTURES / "fresh.txt").read_text(encoding="utf-8")
    torn = "> Approximate context window usage for m, in tokens:  \n> $ 0.0000  12 system mess"
    assert parsed(whole + torn).total_tokens == 4177


def test_files_that_aider_took_out_of_the_chat_are_found() -> None:
    """Each is named in a line of Aider's own, which begins with >; what a model says does not."""
    text = (
        "\n> /repo/b c.py: file not found error  \n> Dropping b c.py from the chat.  \n"
        "\n> Dropping d.py from the chat.\n\nDropping e.py from the chat.\n"
    )
    assert parse_dropped(text) == ("b c.py", "d.py")
    assert parse_dropped("> $ 0.0000    6,379 tokens total\n") == ()


def test_a_line_break_in_a_name_does_not_break_the_table() -> None:
    """A file whose name holds a line break is one row with that name."""
    reading = parsed(
        "> Approximate context window usage for m, in tokens:  \n"
        "> $ 0.0000       12 system messages  \n"
        "> $ 0.0000        3 odd\nname.py   /drop to remove  \n"
        "> ==================  \n> $ 0.0000       15 tokens total  \n"
    )
    assert reading.rows[1] == row("file", 3, "odd\nname.py")


HEADER = "> Approximate context window usage for m, in tokens:"
SYSTEM = "> $ 0.0000  12 system messages"
FILE = "> $ 0.0000  3 a.py /drop to remove"
RULE = "> ====="
REMAINING = "> 985 tokens remaining in context window"
MOST = "> 1,000 tokens max context window size"


def total(tokens: int) -> str:
    return f"> $ 0.0000  {tokens} tokens total"


@pytest.mark.parametrize(
    ("tokens", "is_read"), [(12, False), (13, True), (15, True), (17, True), (18, False)]
)
def test_a_total_may_be_off_by_one_for_each_row(tokens: int, *, is_read: bool) -> None:
    """Aider cuts each number to an integer on its own."""
    reading = parse_context("\n".join((HEADER, SYSTEM, FILE, RULE, total(tokens))), 5.0)
    assert isinstance(reading, ContextReading) is is_read


@pytest.mark.parametrize(
    ("after", "maximum"),
    [
        ((), "unknown"),
        ((REMAINING, MOST), 1000),
        ((REMAINING, MOST, "> more"), 1000),
        ((REMAINING,), None),
        ((REMAINING, "> more", MOST), None),
        (("> more", MOST), "unknown"),
        ((MOST,), "unknown"),
    ],
)
def test_the_maximum_is_the_line_after_what_remains(
    after: tuple[str, ...], maximum: int | str | None
) -> None:
    """Where Aider says what remains, it has a maximum, which must follow; without that it knows none."""
    reading = parse_context("\n".join((HEADER, SYSTEM, FILE, RULE, total(15), *after)), 5.0)
    if maximum is None:
        assert reading == Unavailable("Aider's /tokens table is not complete")
    else:
        assert isinstance(reading, ContextReading)
        unknown = Unavailable("Aider knows no maximum for this model")
        assert reading.max_tokens == (unknown if maximum == "unknown" else maximum)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((HEADER, RULE, total(0)), "Aider's /tokens table is not complete"),
        ((HEADER, SYSTEM, RULE), "Aider's /tokens table is not complete"),
        ((HEADER, SYSTEM, RULE, "> more", total(12)), "Aider's /tokens table is not complete"),
        ((HEADER, SYSTEM), "Aider's /tokens table has no end"),
        ((HEADER, FILE, SYSTEM), "a row of Aider's /tokens table has an unknown form"),
        ((HEADER, SYSTEM, SYSTEM), "a row of Aider's /tokens table has an unknown form"),
        ((HEADER, SYSTEM, "> more"), "a row of Aider's /tokens table has an unknown form"),
    ],
)
def test_why_a_table_is_not_read(lines: tuple[str, ...], reason: str) -> None:
    """Word for word: the system's row is first, and only there."""
    assert parse_context("\n".join(lines), 5.0) == Unavailable(reason)
