"""The wire: every value survives encoding and decoding, and all other lines are refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.actions import (
    CountFiles,
    CountTexts,
    ServeDoor,
    StopSidecar,
    SurveyServer,
    UnloadModels,
    WakeCounter,
    WarmModel,
)
from aider_guard.core.architecture import Architecture
from aider_guard.core.chat.events import (
    DoorOpened,
    ModelWarmed,
    NextPromptCompared,
    NextPromptUnknown,
    PromptReadAhead,
    ReloadSeen,
    RequestFinished,
    RequestRefused,
    RequestStarted,
)
from aider_guard.core.chat.types import (
    CountedBy,
    DoorRole,
    DoorSettings,
    Upstream,
    Verdict,
    WindowNeed,
)
from aider_guard.core.codec import LineSplitter, WireError, build
from aider_guard.core.events import (
    AiderStarted,
    EgressAllowed,
    EgressBlocked,
    FilesCounted,
    MemoryRead,
    ModelsRead,
    ModelsUnloaded,
    ServerRead,
    ServerSurveyed,
    SidecarStarted,
    TextsCounted,
)
from aider_guard.core.readings import (
    ContextRow,
    Gpu,
    GpuProcess,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.server_report import (
    InstalledModel,
    ModelFacts,
    ModelMissing,
    ServerProcess,
    ServerReport,
)
from aider_guard.core.wire import decode, encode

# Lone surrogates too: Python keeps the bytes of a file's name that are no UTF-8 as such.
WORDS = st.text('aé😀"\\/\n\r\t\0\x7f\u2028\udc80\udfff', max_size=12)
BYTES = st.integers(0, 2**64)
SECONDS = st.floats(0, 1e12)
NAMES = st.lists(WORDS, max_size=3).map(tuple)
UNAVAILABLE = st.builds(Unavailable, WORDS)
COUNT = BYTES | UNAVAILABLE


def tuples(of: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Short tuples."""
    return st.lists(of, max_size=3).map(tuple)


LOADED = st.builds(LoadedModel, WORDS, WORDS, BYTES, BYTES, COUNT)
MODELS = st.builds(ModelsReading, tuples(LOADED), SECONDS)
PROCESS = st.builds(GpuProcess, BYTES, WORDS, COUNT, st.booleans())
GPU = st.builds(Gpu, BYTES, WORDS, BYTES, BYTES, tuples(PROCESS) | UNAVAILABLE)
RAM = st.builds(RamReading, BYTES, BYTES, COUNT)
MEMORY = st.builds(MemoryReading, tuples(GPU) | UNAVAILABLE, RAM | UNAVAILABLE, SECONDS)
ARCHITECTURE = st.builds(
    Architecture, WORDS, BYTES, BYTES, tuples(BYTES), tuples(BYTES), BYTES, BYTES, COUNT, COUNT
)
FACTS = st.builds(
    ModelFacts, WORDS, WORDS, COUNT, COUNT, ARCHITECTURE | UNAVAILABLE, WORDS, BYTES, WORDS, WORDS
)
INSTALLED = st.builds(InstalledModel, WORDS, BYTES, WORDS, WORDS, WORDS)
SETTINGS = st.dictionaries(WORDS.map("OLLAMA_{}".format), WORDS, max_size=3)
SERVER_PROCESS = st.builds(
    ServerProcess, BYTES, WORDS, WORDS, SETTINGS | UNAVAILABLE, WORDS, st.booleans()
)
REPORT = st.builds(
    ServerReport,
    WORDS,
    st.booleans(),
    WORDS | UNAVAILABLE,
    tuples(INSTALLED) | UNAVAILABLE,
    MODELS | UNAVAILABLE,
    st.booleans() | UNAVAILABLE,
    SERVER_PROCESS | UNAVAILABLE,
    st.dictionaries(WORDS, FACTS | st.builds(ModelMissing, WORDS, NAMES) | UNAVAILABLE, max_size=3),
)
VERDICT = st.builds(
    Verdict,
    st.sampled_from(["whole", "cut", "unknown"]),
    WORDS,
    st.sampled_from(["", "messages", "tokens", "generation"]),
    COUNT,
)
ROLES = st.sampled_from(["main", "editor", "weak"])
PURPOSES = st.sampled_from(["chat", "edit", "commit", "summary", "other"])
OUTCOMES = st.sampled_from(["answered", "cancelled", "broken"])
ROW_KINDS = st.sampled_from(["system", "history", "map", "file"])
COUNTED_BY = st.sampled_from(get_args(CountedBy))
FINISHED = st.builds(
    RequestFinished,
    *(BYTES, ROLES, PURPOSES, WORDS, OUTCOMES, VERDICT),
    *(COUNT, COUNT, COUNT, COUNT, st.booleans(), SECONDS),
    *(SECONDS | UNAVAILABLE for _ in range(4)),
    WORDS,
    BYTES,
    tuples(st.builds(ContextRow, ROW_KINDS, WORDS, BYTES, st.booleans())),
    counted_by=COUNTED_BY,
)
REASONS = st.sampled_from(["overflow", "cloud", "down", "busy"])
SETTINGS_OF_DOOR = st.builds(
    DoorSettings,
    WORDS,
    tuples(st.builds(Upstream, WORDS, WORDS, st.sampled_from(["ollama", "openai"]))),
    tuples(st.builds(DoorRole, ROLES, WORDS, WORDS)),
    BYTES,
    smaller_windows=tuples(st.builds(WindowNeed, BYTES, BYTES)),
)
TRAFFIC = st.one_of(
    st.builds(DoorOpened, BYTES),
    st.builds(RequestStarted, BYTES, ROLES, PURPOSES, WORDS, st.sampled_from(["ollama", "openai"])),
    FINISHED,
    st.builds(
        RequestRefused,
        *(BYTES, ROLES, PURPOSES, WORDS, REASONS, COUNT, BYTES, COUNT, NAMES),
        counted_by=COUNTED_BY,
    ),
    st.builds(ModelWarmed, WORDS, st.sampled_from(["load", "head"]), SECONDS, BYTES, WORDS),
    st.builds(PromptReadAhead, WORDS, BYTES, SECONDS, WORDS),
    st.builds(NextPromptCompared, WORDS, BYTES, BYTES, WORDS),
    st.builds(NextPromptUnknown, WORDS),
    st.builds(ReloadSeen, WORDS, SECONDS, WORDS),
    st.builds(ServeDoor, SETTINGS_OF_DOOR),
    st.builds(WarmModel, NAMES),
    st.builds(WakeCounter),
)
VALUES = st.one_of(
    TRAFFIC,
    st.builds(SidecarStarted, BYTES, WORDS),
    st.builds(ServerRead, WORDS | UNAVAILABLE),
    st.builds(ModelsRead, MODELS | UNAVAILABLE),
    st.builds(MemoryRead, MEMORY),
    st.builds(ServerSurveyed, REPORT),
    st.builds(FilesCounted, st.dictionaries(WORDS, COUNT, max_size=3)),
    st.builds(TextsCounted, BYTES, tuples(BYTES) | UNAVAILABLE),
    st.builds(ModelsUnloaded, NAMES, COUNT, SECONDS, WORDS),
    st.builds(SurveyServer, NAMES, SECONDS),
    st.builds(CountFiles, WORDS, NAMES),
    st.builds(CountTexts, BYTES, NAMES),
    st.builds(UnloadModels, NAMES, SECONDS),
    st.builds(StopSidecar),
    st.builds(EgressAllowed, WORDS, BYTES, BYTES),
    st.builds(EgressBlocked, WORDS, BYTES, st.sampled_from(["tcp", "dns"]), WORDS, BYTES),
)


@given(VALUES)
def test_a_value_survives(value: object) -> None:
    """A value is encoded as one line, and decoded to the same value."""
    line = encode(value)  # type: ignore[arg-type]  # a strategy of a union is one of objects

    assert value == decode(line) == decode(line.rstrip(b"\n"))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(line: bytes) -> None:
    """Decoding ends with a value or a WireError, whatever the bytes are."""
    try:
        value = decode(line)
    except WireError:
        return
    assert decode(encode(value)) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["reading", "version", "names", "tokens", "request", "reason", "gpus"])


@given(
    st.sampled_from(["ModelsRead", "MemoryRead", "ServerRead", "TextsCounted", "UnloadModels"]),
    st.dictionaries(FIELDS, JSON, max_size=3),
)
def test_any_json_is_a_value_or_an_error(name: str, value: object) -> None:
    """A known type with a value of any form is decoded or refused; what is decoded encodes."""
    line = json.dumps({"type": name, "value": value}).encode()
    try:
        decoded = decode(line)
    except WireError:
        return
    assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type":"StopSidecar"}',
        b'{"type":"StopSidecar","value":{},"more":1}',
        b'{"type":"StopSidecar","value":{"more":1}}',
        b'{"type":"StopSidecar","value":null}',
        b'{"type":"AiderStarted","value":{"launch":1,"pid":2}}',
        b'{"type":["StopSidecar"],"value":{}}',
        b'{"type":"SidecarStarted","value":{"pid":true,"version":""}}',
        b'{"type":"SidecarStarted","value":{"pid":1.0,"version":""}}',
        b'{"type":"SidecarStarted","value":{"pid":"1","version":""}}',
        b'{"type":"SidecarStarted","value":{"pid":1}}',
        b'{"type":"UnloadModels","value":{"names":["a"],"wait_seconds":NaN}}',
        b'{"type":"UnloadModels","value":{"names":["a"],"wait_seconds":1e999}}',
        b'{"type":"UnloadModels","value":{"names":["a"],"wait_seconds":1' + b"0" * 400 + b"}}",
        b'{"type":"UnloadModels","value":{"names":["a"],"wait_seconds":"1"}}',
        b'{"type":"UnloadModels","value":{"names":["a"],"wait_seconds":true}}',
        b'{"type":"UnloadModels","value":{"names":"a"}}',
        b'{"type":"UnloadModels","value":{"names":[1]}}',
        b'{"type":"ServerRead","value":{"version":{"reason":"x","more":1}}}',
        b'{"type":"FilesCounted","value":{"tokens":{"a":null}}}',
        b'{"type":"FilesCounted","value":{"tokens":[["a",1]]}}',
        b'{"type":"RequestStarted","value":{"number":1,"role":"boss","purpose":"chat","model":"m"}}',
        b'{"type":"RequestStarted","value":{"number":1,"role":"main","purpose":"chat"}}',
    ],
)
def test_refuses(line: bytes) -> None:
    """A line that is nearly a value is refused."""
    with pytest.raises(WireError):
        decode(line)


def test_a_default_may_be_left_out() -> None:
    """An older sidecar does not know a newer field; a whole number is a number of seconds, too."""
    assert decode(b'{"type":"UnloadModels","value":{"names":["a"]}}') == UnloadModels(("a",), 6.0)
    assert decode(b'{"type":"SurveyServer","value":{"names":["a"]}}') == SurveyServer(("a",), 3.0)
    line = b'{"type":"UnloadModels","value":{"names":[],"wait_seconds":2}}'
    assert decode(line) == UnloadModels((), 2.0)


@dataclass(frozen=True)
class Sizes:
    """A value with a field of each kind: one that is needed, one with a default, and one that is made anew."""

    name: str
    count: int = 1
    by_file: dict[str, int] = field(default_factory=dict)


def test_only_a_field_without_a_default_is_needed() -> None:
    """A default may be a value or be made for each."""
    assert build(Sizes, {"name": "a"}) == Sizes("a")
    assert build(Sizes, {"name": "a", "by_file": {"b": 2}}) == Sizes("a", 1, {"b": 2})
    with pytest.raises(WireError, match="wrong fields for Sizes"):
        build(Sizes, {"count": 2, "by_file": {}})


def test_an_error_does_not_repeat_the_line() -> None:
    """The reason goes to the log, where no content of the user's belongs."""
    with pytest.raises(WireError) as caught:
        decode(b'{"type":"CountTexts","value":{"request":1,"texts":["secret",{"secret":1}]}}')
    assert "secret" not in str(caught.value)


def test_numbers_without_json_are_refused() -> None:
    """A NaN is a bug of ours and must not become a line that cannot be decoded."""
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(UnloadModels((), math.nan))


def test_other_events_stay_on_their_side() -> None:
    """Only the sidecar's events can come over the wire."""
    with pytest.raises(WireError):
        decode(encode(AiderStarted(1, 2)))


@given(st.lists(st.binary(max_size=10).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_survive_any_chunking(lines: list[bytes], data: st.DataObject) -> None:
    """However the stream is cut, the same lines come out, and an unfinished one does not."""
    stream = b"".join(line + b"\n" for line in lines) + b"unfinished"
    splitter, found = LineSplitter(), list[bytes]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]

    assert found == lines
    assert splitter.feed(b"\n") == (b"unfinished",)


def test_a_line_has_8_mib_at_most() -> None:
    """Its newline not counted."""
    longest = b"x" * (8 << 20)
    assert LineSplitter().feed(longest + b"\n") == (longest,)
    with pytest.raises(WireError, match="more than 8388608 bytes"):
        LineSplitter().feed(longest + b"x")


@pytest.mark.parametrize("chunks", [[b"12345"], [b"123", b"45"], [b"12345\n"], [b"a\n12345\nb\n"]])
def test_a_line_has_a_bound(chunks: list[bytes]) -> None:
    """A line of five bytes where four are allowed is refused, ended or not, and forgotten."""
    splitter = LineSplitter(max_line_bytes=4)
    *first, last = chunks
    for chunk in first:
        splitter.feed(chunk)
    with pytest.raises(WireError, match="more than 4 bytes"):
        splitter.feed(last)
    assert splitter.feed(b"1234\n") == (b"1234",)
