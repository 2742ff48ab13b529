from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.truncation import LogEvidence, LoggedCut, LoggedPrompt
from aider_guard.ollama.log_lines import (
    LINE_BYTES,
    ContextShifted,
    DebugLine,
    LogLine,
    MessagesDropped,
    RequestEnded,
    evidence,
    read_line,
)

CAPTURES = Path(__file__).parents[1] / "captures" / "ollama_log"
CUT = (
    'time=2026-11-22T10:04:43.512Z level=WARN source=runner.go:128 msg="truncating input prompt"'
    " limit=1024 prompt=5610 keep=4 new=1024"
)
WITHOUT_SOURCE = 'level=WARN msg="truncating input prompt" limit=4099 prompt=9200 keep=5 new=4099'
NEW_PROMPT = (
    "slot update_slots: id  0 | task 135 | new prompt, n_ctx_slot = 32768, n_keep = 4,"
    " task.n_tokens = 14892"
)
SHIFT = (
    "slot operator(): id  0 | task 42 | slot context shift, n_keep = 4, n_left = 20, n_discard = 10"
)
DROPPED = (
    'time=2026-11-22T10:04:43.512Z level=DEBUG source=prompt.go:77 msg="truncating input messages'
    ' which exceed context length" truncated=9'
)
NATIVE = (
    'time=2026-11-22T10:04:43.512Z level=DEBUG source=routes.go:3087 msg="truncating native chat'
    ' messages which exceed context length" truncated=7'
)
OLD_SHIFT = (
    'time=2026-11-22T10:04:43.512Z level=DEBUG source=cache.go:246 msg="context limit hit -'
    ' shifting" id=0 limit=1024 input=1024 keep=4 discard=510'
)
SLOT = (
    'time=2026-11-22T10:04:43.512Z level=DEBUG source=cache.go:104 msg="loading cache slot"'
    " id=0 cache=5 prompt=997 used=5 remaining=992"
)
ENDED = '[GIN] 2026/11/22 - 10:04:43 | 200 |  2.48s |       127.0.0.1 | POST     "/api/chat"'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (CUT, LoggedCut(5610, 1024)),
        (f"time=2026-11-22T10:04:43.512+01:00 {WITHOUT_SOURCE}", LoggedCut(9200, 4099)),
        (CUT.replace("keep=4", "keep=-1"), LoggedCut(5610, 1024)),
        (f"Nov 22 10:04:43 box ollama[812]: {CUT}", LoggedCut(5610, 1024)),
        (f"2026-11-22T10:04:43.6Z {CUT}", LoggedCut(5610, 1024)),
        (json.dumps({"log": CUT + "\n", "stream": "stderr"}), LoggedCut(5610, 1024)),
        (NEW_PROMPT, LoggedPrompt(14892, 32768)),
        (NEW_PROMPT.replace("update_slots", "operator()"), LoggedPrompt(14892, 32768)),
        (f"[48563] 2.22.853.120 I {NEW_PROMPT}", LoggedPrompt(14892, 32768)),
        (SHIFT, ContextShifted()),
        (OLD_SHIFT, ContextShifted()),
        (DROPPED, MessagesDropped()),
        (NATIVE, MessagesDropped()),
        (SLOT, LoggedPrompt(997)),
        ("time=2026-11-22T10:04:43Z level=DEBUG source=x.go:1 msg=reloading", DebugLine()),
        (ENDED, RequestEnded()),
        (ENDED.replace("POST", "GET "), None),
        ("time=2026-11-22T10:04:43Z level=INFO source=x.go:1 msg=truncating", None),
        ("slot      release: id  0 | task 1 | stop processing: n_tokens = 9, truncated = 1", None),
        ("llama_context: n_ctx_per_seq (4096) < n_ctx_train (40960)", None),
        ("", None),
    ],
)
def test_lines(line: str, expected: LogLine | None) -> None:
    """Each kind of line, as the eras and the keepers of logs write it."""
    assert read_line(line.encode()) == expected
    assert read_line(line.encode() + b"\r") == expected


@pytest.mark.parametrize("line", [CUT, NEW_PROMPT, SHIFT, DROPPED, ENDED, SLOT])
def test_a_log_inside_a_prompt(line: str) -> None:
    """A prompt that holds a log, printed by a server that logs prompts, says nothing."""
    quoted = line.replace('"', '\\"')
    prompt = (
        f'time=2026-11-22T10:04:43Z level=DEBUG source=a.go:1 msg="chat request" prompt="{quoted}"'
    )
    assert read_line(prompt.encode()) == DebugLine()
    assert read_line(prompt.replace("DEBUG", "INFO").encode()) is None
    assert read_line((prompt + " " * LINE_BYTES + line).encode()) == DebugLine()


@given(
    st.binary(max_size=300), st.sampled_from([b"", CUT.encode(), NEW_PROMPT.encode()]), st.binary()
)
def test_any_bytes(before: bytes, line: bytes, after: bytes) -> None:
    """Any bytes in a log can be read."""
    read_line(before + line + after)


@given(st.text(st.sampled_from('time=level: slot|[GIN] \\"msgWARN0'), max_size=LINE_BYTES * 4))
def test_long_lines_are_read_in_no_time(line: str) -> None:
    """A line that nearly matches again and again costs no more than its length."""
    read_line(line.encode())


def read_capture(name: str) -> LogEvidence:
    lines = (CAPTURES / name).read_bytes().splitlines()
    return evidence(read for line in lines if (read := read_line(line)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "0.9.3_debug_one_huge_message.log",
            LogEvidence(cuts=(LoggedCut(1505, 256),), prompts=(LoggedPrompt(256),), tells_all=True),
        ),
        (
            "0.9.3_debug_many_messages.log",
            LogEvidence(prompts=(LoggedPrompt(227),), dropped_messages=True, tells_all=True),
        ),
        (
            "0.9.3_debug_generation_overflow.log",
            LogEvidence(prompts=(LoggedPrompt(200),), shifts=1, tells_all=True),
        ),
        ("0.9.3_one_huge_message.log", LogEvidence(cuts=(LoggedCut(1505, 256),))),
        (
            "0.30.11_one_huge_message.log",
            LogEvidence(cuts=(LoggedCut(8707, 2050),), prompts=(LoggedPrompt(2050, 4096),)),
        ),
        (
            "llama_server_generation_overflow.log",
            LogEvidence(
                prompts=(LoggedPrompt(256, 256), LoggedPrompt(240, 256), LoggedPrompt(240, 256)),
                shifts=1,
            ),
        ),
        (
            "0.33.0_generation_overflow.log",
            LogEvidence(prompts=(LoggedPrompt(3980, 4096),), shifts=2),
        ),
    ],
)
def test_captures(name: str, expected: LogEvidence) -> None:
    """Logs as recorded of 0.9.3 and of llama.cpp's server; of 0.30 and later put together from published lines."""
    assert read_capture(name) == expected
