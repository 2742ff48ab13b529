"""What Aider writes beside the screen, read as it grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aider_guard.core.readings import Unavailable
from aider_guard.session.side_channels import AnalyticsTail, FileTail, Sent

NOT_REPORTED = Unavailable("Aider did not report it")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def line(event: str, **properties: object) -> bytes:
    """A line as Aider's analytics.py writes it."""
    entry = {"event": event, "properties": properties, "user_id": "u", "time": 1}
    return json.dumps(entry).encode() + b"\n"


START = line("message_send_starting")


def sent(prompt: int, completion: int) -> bytes:
    return line("message_send", prompt_tokens=prompt, completion_tokens=completion)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_tail_gives_what_was_added(log: Path) -> None:
    """Each byte once; a file that is not there yet is empty."""
    tail = FileTail(log)
    assert tail.read() == b""
    append(log, b"one")
    assert tail.read() == b"one"
    append(log, b" two")
    assert (tail.read(), tail.read()) == (b" two", b"")


def test_a_tail_may_begin_at_the_end(log: Path) -> None:
    """What was there before is not the session's."""
    append(log, b"before")
    tail = FileTail(log, from_end=True)
    append(log, b"after")
    assert tail.read() == b"after"
    assert FileTail(log.with_name("missing"), from_end=True).read() == b""


def test_a_file_that_shrank_is_read_from_its_start(log: Path) -> None:
    """It was written anew: the guard itself does so when the chat was cleared."""
    tail = FileTail(log)
    append(log, b"a long text")
    tail.read()
    log.write_bytes(b"new")
    assert tail.read() == b"new"


def test_a_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """A folder in its place, for one."""
    assert FileTail(tmp_path).read() == b""


def test_requests_are_counted_and_the_last_one_reported(log: Path) -> None:
    """An architect's turn is two requests; Aider's estimate is that of the last."""
    tail = AnalyticsTail(log)
    append(log, START + sent(1000, 20) + START + sent(3000, 400) + line("command_tokens"))
    assert tail.look() == 2
    assert tail.take() == Sent(2, 3000, 400)
    assert tail.take() == Sent(0, NOT_REPORTED, NOT_REPORTED)


def test_a_request_that_failed_is_counted_without_tokens(log: Path) -> None:
    """Aider reports no message_send for one that failed or was cut off."""
    tail = AnalyticsTail(log)
    append(log, START + line("message_send_exception", exception="x"))
    assert tail.take() == Sent(1, NOT_REPORTED, NOT_REPORTED)


def test_the_users_own_log_is_read_from_its_end(log: Path) -> None:
    """The user may keep one over many sessions."""
    append(log, START + sent(1, 1))
    tail = AnalyticsTail(log)
    append(log, START)
    assert tail.take().requests == 1


OTHERS = [
    b"\n",
    b"not JSON\n",
    b"\xff\xfe\n",
    b"7\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b'{"event": "message_send_starting"}\n',
    b'{"event": "message_send", "properties": null}\n',
    line("message_send", prompt_tokens="many"),
    line("message_send", prompt_tokens=1.5, completion_tokens=None),
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_line_of_another_version_counts_as_nothing(log: Path, other: bytes) -> None:
    """It raises nothing, and the lines around it are read."""
    tail = AnalyticsTail(log)
    append(log, other)
    assert tail.take() == Sent(0, NOT_REPORTED, NOT_REPORTED)
    append(log, START + sent(7, 8))
    assert tail.take() == Sent(1, 7, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(st.sampled_from([START, sent(5, 6), line("exit"), b"garbage\n"]), max_size=8),
    st.data(),
)
def test_lines_that_come_in_pieces_are_read_whole(
    log: Path, lines: list[bytes], data: st.DataObject
) -> None:
    """Wherever a look falls between the writes, the count is the same."""
    log.write_bytes(b"")
    tail = AnalyticsTail(log)
    text = b"".join(lines)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
    ends = sorted({*cuts, len(text)})
    for start, end in zip([0, *ends], ends, strict=False):
        append(log, text[start:end])
        tail.look()
    assert tail.take().requests == lines.count(START)
