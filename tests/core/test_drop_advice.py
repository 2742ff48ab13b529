"""Which files to drop: the fewest, the least missed, and what that really frees."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.drop_advice import Advice, ChatFile, advise, dropped_by, word_for_drop
from aider_guard.core.readings import ContextReading, ContextRow, Unavailable

ROOT = "/home/user/repo"
WINDOW = 10_000


def chat(
    files: dict[str, int],
    *,
    read_only: dict[str, int] | None = None,
    history: int = 0,
    system: int = 500,
) -> ContextReading:
    rows = [ContextRow("system", "", system)]
    rows += [ContextRow("history", "", history)] if history else []
    rows += [ContextRow("file", name, tokens) for name, tokens in files.items()]
    rows += [ContextRow("file", name, n, read_only=True) for name, n in (read_only or {}).items()]
    total = sum(row.tokens for row in rows)
    return ContextReading("m", tuple(rows), total, Unavailable("unknown"), taken_at=0.0)


def advice_for(
    reading: ContextReading,
    used: int | None = None,
    *,
    seen: dict[str, int] | None = None,
    turn: int = 9,
    aim: float = 75,
) -> Advice | None:
    return advise(
        reading,
        window_tokens=WINDOW,
        used_tokens=reading.total_tokens if used is None else used,
        last_seen=seen or {},
        turn=turn,
        aim_percent=aim,
        root=ROOT,
    )


def command_for(*args: object, **kwargs: object) -> str | None:
    advice = advice_for(*args, **kwargs)  # type: ignore[arg-type]  # handed through as it came
    return advice.command if advice else None


def test_nothing_is_advised_below_the_aim() -> None:
    """A fill below the aim needs no advice."""
    assert advice_for(chat({"a.py": 5000}), 7499) is None


def test_nothing_is_advised_when_nothing_can_go() -> None:
    """Without files and history there is nothing to say."""
    assert advice_for(chat({}, system=9000)) is None


def test_the_one_file_that_suffices() -> None:
    """The command, what it frees and the fill after it are those of the file."""
    assert advice_for(chat({"big.py": 3000, "small.py": 200}), 8200) == Advice(
        "/drop big.py", ("big.py",), 3000, 52.0
    )


@pytest.mark.parametrize(
    ("files", "seen", "expected"),
    [
        ({"a.py": 1000, "b.py": 1100}, {"a.py": 2, "b.py": 5}, "/drop a.py"),
        ({"a.py": 1000, "b.py": 1100}, {"a.py": 5, "b.py": 5}, "/drop b.py"),
        ({"a.py": 1000, "b.py": 1100}, {"a.py": 5}, "/drop b.py"),
        ({"a.py": 100, "b.py": 1100}, {"a.py": 2, "b.py": 5}, "/drop b.py"),
        ({"a.py": 1000, "b.py": 1100}, {"b.py": 9}, "/drop a.py"),
        ({"my notes.md": 1000}, {}, '/drop "my notes.md"'),
        ({"a.py": 400, "b.py": 300, "c.py": 350}, {}, "/drop a.py c.py"),
        ({"a.py": 400, "b.py": 300, "c.py": 350}, {"a.py": 3}, "/drop c.py b.py"),
        ({"a.py": 1000, "data.py": 50}, {}, "/drop ./a.py"),
        ({"a.py": 600, "b.py": 100}, {}, "/drop a.py b.py"),
        ({"a.py": 400, "b.py": 300, "c.py": 200}, {"a.py": 3, "b.py": 3}, "/drop a.py b.py"),
        ({"a.py": 400, "b.py": 200, "c.py": 300}, {"a.py": 3, "b.py": 2}, "/drop a.py c.py"),
        ({"two\nlines": 1000, "b.py": 900}, {}, "/drop b.py"),
        ({"\x1b[2J": 1000, "b.py": 900}, {}, "/drop b.py"),
    ],
)
def test_which_files_go(files: dict[str, int], seen: dict[str, int], expected: str) -> None:
    """As few as possible, those unseen for longest first, then the larger ones."""
    assert command_for(chat(files), 8100, seen=seen) == expected


def test_read_only_files_go_last() -> None:
    """Conventions stay while other files suffice, and go when they do not."""
    reading = chat({"a.py": 400, "b.py": 400}, read_only={"CONVENTIONS.md": 3000})
    assert command_for(reading, 8000) == "/drop a.py b.py"
    assert command_for(reading, 9000) == "/drop CONVENTIONS.md"


def test_files_of_the_last_turn_go_only_when_nothing_else_helps() -> None:
    """A file that was just mentioned is spared by read-only files and by ``/clear``."""
    seen = {"now.py": 9}
    only = chat({"now.py": 3000, "old.py": 100})
    assert command_for(only, 8500, seen=seen) == "/drop now.py"
    spared = chat({"now.py": 3000}, read_only={"CONVENTIONS.md": 1500})
    assert command_for(spared, 8500, seen=seen) == "/drop CONVENTIONS.md"
    cleared = chat({"now.py": 3000}, history=1500)
    assert command_for(cleared, 8500, seen=seen) == "/clear"


def test_clear_is_first_when_the_history_is_the_largest_part() -> None:
    """A history larger than all files is cleared; a drop that suffices is the alternative."""
    advice = advice_for(chat({"a.py": 2000}, history=5000), 8500)
    assert advice is not None
    assert (advice.command, advice.frees_tokens, advice.fill_after_percent) == (
        "/clear",
        5000,
        35.0,
    )
    assert [other.command for other in advice.alternatives] == ["/drop a.py"]


def test_clear_is_an_alternative_when_the_files_are_larger() -> None:
    """Files go first when they are the larger part, as long as they suffice."""
    advice = advice_for(chat({"a.py": 4000}, history=2000), 8500)
    assert advice is not None
    assert advice.command == "/drop a.py"
    assert [other.command for other in advice.alternatives] == ["/clear"]


def test_what_frees_most_when_nothing_suffices() -> None:
    """Short of the aim the best single command is named, and the files of the last turn stay."""
    advice = advice_for(
        chat({"a.py": 900, "b.py": 3, "now.py": 800}, history=300), 9900, seen={"now.py": 9}
    )
    assert advice is not None
    assert (advice.command, advice.frees_tokens) == ("/drop a.py", 900)
    assert advice.fill_after_percent == 90.0
    assert [other.command for other in advice.alternatives] == ["/clear"]


def commands(advice: Advice | None) -> list[str]:
    """The command and its alternatives."""
    assert advice is not None
    return [one.command for one in (advice, *advice.alternatives)]


def test_at_the_aim_is_not_below_it() -> None:
    """What frees just as much as brings the fill to the aim does not suffice."""
    reading = chat({"a.py": 900}, history=1000)
    assert commands(advice_for(reading, 8499)) == ["/clear"]
    assert commands(advice_for(reading, 8500)) == ["/clear", "/drop a.py"]
    assert commands(advice_for(chat({"a.py": 1000}), 8500)) == ["/drop a.py"]
    assert advice_for(chat({"a.py": 1000}), 7499) is None
    assert commands(advice_for(chat({"a.py": 1000}), 7500)) == ["/drop a.py"]


def test_files_go_first_when_the_history_is_as_large() -> None:
    """The conversation is lost only where that frees more."""
    assert commands(advice_for(chat({"a.py": 2000}, history=2000), 8500)) == [
        "/drop a.py",
        "/clear",
    ]
    assert commands(advice_for(chat({"a.py": 2000}, history=2001), 8500)) == [
        "/clear",
        "/drop a.py",
    ]


def test_no_fill_is_below_zero() -> None:
    """Where Aider counts more in a file than the server in the whole request."""
    advice = advice_for(chat({"a.py": 9000}), 8000)
    assert advice is not None
    assert (advice.frees_tokens, advice.fill_after_percent) == (9000, 0.0)


def test_what_aider_drops_along_is_counted() -> None:
    """When no word is exact, the files that go along are named and counted."""
    reading = chat({}, read_only={"a.md": 1000, "a.md.bak": 200})
    advice = advise(
        reading, window_tokens=WINDOW, used_tokens=8000, last_seen={}, turn=1, aim_percent=75
    )
    assert advice is not None
    assert advice.command == "/drop a.md"
    assert set(advice.files) == {"a.md", "a.md.bak"}
    assert advice.frees_tokens == 1200


def test_a_file_of_the_last_turn_does_not_go_along() -> None:
    """A drop that would take a recently used file along is avoided like that file itself."""
    reading = chat({}, read_only={"a.md": 3000, "a.md.bak": 200, "b.md": 301, "c.md": 300})
    advice = advise(
        reading,
        window_tokens=WINDOW,
        used_tokens=8000,
        last_seen={"a.md.bak": 3},
        turn=3,
        aim_percent=75,
    )
    assert advice is not None
    assert advice.command == "/drop b.md c.md"


names = st.text("ab./ [", min_size=1, max_size=5).filter(
    lambda n: n == n.strip(" ") and "//" not in f"/{n}/" and "./" not in f"{n}/"
)
sizes = st.integers(0, 4000)
readings = st.builds(
    lambda files, history: chat(files, history=history),
    st.dictionaries(names, sizes, max_size=6),
    st.integers(0, 3000),
)
seen_turns = st.dictionaries(names, st.integers(0, 9), max_size=6)


def named_alone(files: list[ChatFile]) -> set[str]:
    """The names of the files that can be dropped without another."""
    words = {file: word_for_drop(file, files, ROOT) for file in files}
    return {
        file.name
        for file, word in words.items()
        if word is not None and set(dropped_by(word, files, ROOT)) == {file}
    }


def words_of(command: str) -> list[str]:
    pairs = re.findall(r"\"(.+?)\"|(\S+)", command.removeprefix("/drop "))
    return [name for pair in pairs for name in pair if name]


@given(readings, st.integers(0, 20_000), seen_turns, st.sampled_from([0, 9]))
def test_every_advice_tells_the_truth(
    reading: ContextReading, used: int, seen: dict[str, int], turn: int
) -> None:
    """Only files in the chat are named, and the command frees what it says, by Aider's rules."""
    advice = advice_for(reading, used, seen=seen, turn=turn)
    tokens = {ChatFile(r.name): r.tokens for r in reading.rows if r.kind == "file"}
    history = sum(row.tokens for row in reading.rows if row.kind == "history")
    for one in (advice, *advice.alternatives) if advice else ():
        if one.command == "/clear":
            assert (one.files, one.frees_tokens) == ((), history)
        else:
            gone = {
                f for word in words_of(one.command) for f in dropped_by(word, list(tokens), ROOT)
            }
            assert {file.name for file in gone} == set(one.files)
            assert one.frees_tokens == sum(tokens[file] for file in gone)
        assert one.frees_tokens > 0
        assert one.fill_after_percent == 100 * max(0, used - one.frees_tokens) / WINDOW
    assert advice == advice_for(reading, used, seen=seen, turn=turn)


@given(readings, st.integers(0, 20_000), seen_turns)
def test_never_more_files_than_needed(
    reading: ContextReading, used: int, seen: dict[str, int]
) -> None:
    """No smaller choice of the files that may go reaches the aim, and none is named below it."""
    advice = advice_for(reading, used, seen=seen)
    need = used - 0.75 * WINDOW
    if advice is None:
        return
    assert need >= 0
    if advice.frees_tokens > need and advice.files:
        spared = {name for name, turn in seen.items() if turn >= 9}
        everything = [row for row in reading.rows if row.kind == "file"]
        tame = [row for row in everything if row.name not in spared]
        pool = tame if spared.isdisjoint(advice.files) else everything
        # What a word takes along cannot be helped, and a file that has no word of its own is no choice.
        alone = named_alone([ChatFile(row.name) for row in everything])
        pool = [row for row in pool if row.name in alone]
        fewer = itertools.combinations(pool, len(words_of(advice.command)) - 1)
        assert all(sum(row.tokens for row in choice) <= need for choice in fewer)


@given(readings, st.integers(7500, 20_000), seen_turns)
def test_the_last_turn_is_spared_while_anything_else_helps(
    reading: ContextReading, used: int, seen: dict[str, int]
) -> None:
    """Files of the last turn are named only when neither others nor ``/clear`` reach the aim."""
    advice = advice_for(reading, used, seen=seen)
    if advice is None or all(seen.get(name, -1) < 9 for name in advice.files):
        return
    need = used - 0.75 * WINDOW
    files = [ChatFile(row.name) for row in reading.rows if row.kind == "file"]
    spared = {file for file in files if seen.get(file.name, -1) >= 9}
    # A file whose every word takes one of the last turn along is no other choice.
    alone = {
        file.name
        for file in files
        if (word := word_for_drop(file, files, ROOT)) is not None
        and spared.isdisjoint(dropped_by(word, files, ROOT))
    }
    others = sum(r.tokens for r in reading.rows if r.kind == "file" and r.name in alone)
    history = sum(row.tokens for row in reading.rows if row.kind == "history")
    if advice.frees_tokens > need:
        assert others <= need
        assert history <= need
    else:
        assert others == history == 0


@given(readings, st.integers(7500, 20_000), seen_turns)
def test_the_aim_is_reached_whenever_one_command_can(
    reading: ContextReading, used: int, seen: dict[str, int]
) -> None:
    """If clearing, or dropping everything, reaches the aim, the advice reaches it too."""
    advice = advice_for(reading, used, seen=seen)
    of = {
        kind: sum(r.tokens for r in reading.rows if r.kind == kind) for kind in ("file", "history")
    }
    if max(of.values()) > used - 0.75 * WINDOW:
        assert advice is not None
        assert advice.fill_after_percent < 75
