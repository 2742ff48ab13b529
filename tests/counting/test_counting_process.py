"""The counting process: its answers, its wire, the vocabularies that it reads, and the ratios that it keeps."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.ollama_server import Cut, Drip, Endless, FakeModel, FakeOllama, Hang, Json, Raw
from fakes.vocabulary import tiny
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.codec import WireError
from aider_guard.core.readings import Unavailable
from aider_guard.counting import process as process_module
from aider_guard.counting import vocabulary_files
from aider_guard.counting.learned import FILE, Learned, Ratios, keep_learned, read_learned
from aider_guard.counting.process import Folders, TokenizerService
from aider_guard.counting.vocabulary_files import show, vocabulary_facts
from aider_guard.counting.wire import (
    Acknowledgement,
    CountedTexts,
    CountPlain,
    CountPrompt,
    LearnModel,
    MeasuredPrompt,
    ModelServer,
    PromptCount,
    Question,
    decode,
    encode,
    prompt_of,
)
from aider_guard.line_process import LineProcess

TEMPLATE = "{{ range .Messages }}<|im_start|>{{ .Content }}{{ end }}"
MODEL = FakeModel("exact:latest", vocabulary=tiny(), template=TEMPLATE, blob="e" * 64)


def chat(text: str, **body: Any) -> ChatRequest:
    """A chat of one message."""
    return ChatRequest("chat", "exact", (Message("user", text),), stream=True, body=body)


def ask(service: TokenizerService, question: Question) -> object:
    """Ask a question; return the answer."""
    line = encode(question)
    assert line is not None
    return decode(service.answer(line))


def test_questions_and_answers(tmp_path: Path) -> None:
    """Learned, counted, measured; the number names the prompt that was measured."""
    with FakeOllama(models=(MODEL,)) as ollama:
        server = ModelServer(ollama.url, "exact")
        service = TokenizerService(Folders(learned=str(tmp_path)))
        assert ask(service, LearnModel(server)) == Acknowledgement()
        for number, text in ((1, "the log"), (2, "the lazy dog")):
            counted = ask(service, CountPrompt(number, server, prompt_of(chat(text))))
            assert counted == PromptCount(1 + len(tiny().encode(text)), True, 0.0, "vocabulary")
        assert ask(service, CountPlain(server, ("the log",))) == CountedTexts(
            (len(tiny().encode("the log")),)
        )
        assert (
            ask(service, MeasuredPrompt(1, 1 + len(tiny().encode("the log")))) == Acknowledgement()
        )
        assert not (tmp_path / FILE).exists()
        assert ask(service, MeasuredPrompt(2, 99)) == Acknowledgement()
        assert read_learned(str(tmp_path)).keys() == {"exact:latest"}
        assert ask(service, MeasuredPrompt(2, 99)) == Acknowledgement("that prompt was not counted")


def test_a_model_that_was_made_anew_is_learned_anew() -> None:
    """When the door is served again, and not before."""
    with FakeOllama(models=(MODEL,)) as ollama:
        server = ModelServer(ollama.url, "exact")
        service = TokenizerService(Folders())
        before = ask(service, CountPrompt(1, server, prompt_of(chat("the log"))))
        ollama.models = (replace(MODEL, template=TEMPLATE + "<|im_end|>"),)
        assert ask(service, CountPrompt(2, server, prompt_of(chat("the log")))) == before
        assert ask(service, LearnModel(server)) == Acknowledgement()
        assert isinstance(before, PromptCount)
        after = PromptCount(before.tokens + 1, True, 0.0, "vocabulary")
        assert ask(service, CountPrompt(3, server, prompt_of(chat("the log")))) == after


def test_a_server_without_an_answer_is_left_alone_for_a_while() -> None:
    """One that hangs would delay every count."""
    now = 1000.0
    with FakeOllama(models=(MODEL,)) as ollama:
        ollama.answers["/api/show"] = Json({"error": "busy"}, 500)
        server = ModelServer(ollama.url, "exact")
        service = TokenizerService(Folders(), clock=lambda: now)
        for later, requests in ((0.0, 1), (14.9, 1), (0.1, 2), (14.9, 2)):
            now += later
            ask(service, CountPlain(server, ("a",)))
            assert len(ollama.received) == requests
        assert ask(service, LearnModel(server)) == Acknowledgement("the model was not told")
        assert len(ollama.received) == 3


@pytest.mark.parametrize("answers", [[Json({}, 500)], [None, Json({}, 500)]])
def test_a_model_that_cannot_be_learned_anew_is_counted_as_before(
    answers: list[Json | None],
) -> None:
    """Whether its server tells nothing of it or only no vocabulary; and a new one is estimated."""
    with FakeOllama(models=(MODEL,)) as ollama:
        server, other = ModelServer(ollama.url, "exact"), ModelServer(ollama.url, "exact:latest")
        service = TokenizerService(Folders())
        exact = ask(service, CountPrompt(1, server, prompt_of(chat("the log"))))
        assert exact == PromptCount(1 + len(tiny().encode("the log")), True, 0.0, "vocabulary")
        ollama.script["/api/show"] = [*answers, *answers]
        assert ask(service, LearnModel(server)) == Acknowledgement("the model was not told")
        assert ask(service, CountPrompt(2, server, prompt_of(chat("the log")))) == exact
        estimate = ask(service, CountPrompt(3, other, prompt_of(chat("the log"))))
        assert isinstance(estimate, PromptCount)
        assert not estimate.exact
        assert len(ollama.received) == 2 + 2 * len(answers)


def test_a_server_without_an_address_is_never_asked(tmp_path: Path) -> None:
    """Its models are estimated all the time, and known by the names that it gave them."""
    now = 1000.0
    service = TokenizerService(Folders(learned=str(tmp_path)), clock=lambda: now)
    server = ModelServer("", "M")
    assert ask(service, LearnModel(server)) == Acknowledgement("the model was not told")
    keep_learned(str(tmp_path), "M", Learned(Ratios({"prose": 5.0})))
    now += 20.0
    assert ask(service, CountPlain(server, ("word " * 7,))) == CountedTexts((11,))
    again = TokenizerService(Folders(learned=str(tmp_path)))
    assert ask(again, CountPlain(server, ("word " * 7,))) == CountedTexts((50,))


def test_an_encoding_is_loaded_for_models_without_a_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes 60 MB."""
    folders: list[str] = []

    def load(folder: str) -> Any:
        folders.append(folder)
        return lambda text: len(text.split())

    monkeypatch.setattr(process_module, "load_counter", load)
    service = TokenizerService(Folders(tokenizers="encodings"))
    with FakeOllama(models=(MODEL,)) as ollama:
        exact = ask(service, CountPlain(ModelServer(ollama.url, "exact"), ("the log",)))
    assert exact == CountedTexts((len(tiny().encode("the log")),))
    assert folders == []
    prompt = prompt_of(chat("word " * 100))
    estimate = ask(service, CountPrompt(1, ModelServer("", "m"), prompt))
    assert estimate == PromptCount(115, False, 35.0, "estimate")
    assert folders == ["encodings"]


@pytest.mark.parametrize(("later", "is_known"), [(63, True), (64, False)])
def test_64_prompts_wait_for_what_was_measured(later: int, is_known: bool) -> None:
    """The oldest is forgotten for the next."""
    service = TokenizerService(Folders())
    prompt = prompt_of(chat("a"))
    for number in range(later + 1):
        ask(service, CountPrompt(number, ModelServer("", "m"), prompt))
    words = "" if is_known else "that prompt was not counted"
    assert ask(service, MeasuredPrompt(0, 5)) == Acknowledgement(words)
    assert ask(service, MeasuredPrompt(1, 5)) == Acknowledgement()


def test_what_was_measured_of_a_model_that_is_held_no_more_teaches_nothing() -> None:
    """Its prompt was weighed by a counter that is gone."""
    service = TokenizerService(Folders())
    for number in range(5):
        prompt = prompt_of(chat("a"))
        ask(service, CountPrompt(number, ModelServer("", f"m{number}"), prompt))
    words = [ask(service, MeasuredPrompt(number, 5)) for number in (0, 1)]
    assert words == [Acknowledgement("that prompt was not counted"), Acknowledgement()]


def test_the_process_has_three_folders(tmp_path: Path) -> None:
    """Of encodings, of what was learned, and of vocabularies."""
    learned, vocabularies = tmp_path / "learned", tmp_path / "vocabularies"
    folders = ("", str(learned), str(vocabularies), "unknown")
    process = LineProcess("aider_guard.counting.process", *folders)
    answers = []
    with FakeOllama(models=(MODEL,)) as ollama:
        server = ModelServer(ollama.url, "exact")
        prompt = prompt_of(chat("the log"))
        for question in (LearnModel(server), CountPrompt(7, server, prompt), MeasuredPrompt(7, 99)):
            line = encode(question)
            assert line is not None
            process.ask(line)
            answers.append(decode(process.answer(30.0) or b""))
    process.close()
    count = PromptCount(1 + len(tiny().encode("the log")), True, 0.0, "vocabulary")
    assert answers == [Acknowledgement(), count, Acknowledgement()]
    assert read_learned(str(learned)).keys() == {"exact:latest"}
    assert [path.name for path in vocabularies.iterdir()] == [f"{'e' * 64}.json"]


def test_vocabularies_of_four_models_are_held_at_most() -> None:
    """The longest unused is read again when it is needed."""
    models = tuple(FakeModel(f"m{n}:latest", vocabulary=tiny(), blob=f"{n}" * 64) for n in range(5))
    with FakeOllama(models=models) as ollama:
        service = TokenizerService(Folders())
        for number in (0, 1, 2, 3, 0, 4, 0, 1):
            ask(service, CountPlain(ModelServer(ollama.url, f"m{number}"), ("a",)))
        verbose_models = [one.body["model"] for one in ollama.received if one.body.get("verbose")]
        assert verbose_models == ["m0", "m1", "m2", "m3", "m4", "m1"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'["Nope",{}]',
        b'["CountPlain",{}]',
        b'["LearnModel",{"server":1}]',
        b"[" * 99,
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    """They end the process: the door sends no such line."""
    with pytest.raises(WireError):
        decode(line)


@given(
    st.text(), st.booleans(), st.sampled_from(["chat", "generate", "openai_chat", "openai_text"])
)
def test_requests_survive_the_wire(text: str, plain: bool, form: Any) -> None:
    """All that a count depends on."""
    body = {"think": "high", "tools": [1], "format": "json", "images": []}
    request = ChatRequest(
        form, "m", (Message("user", text, plain),), True, raw_prompt=text, body=body
    )
    line = encode(CountPrompt(7, ModelServer("b", "m"), prompt_of(request)))
    assert line is not None
    assert b"\n" not in line[:-1]
    there = decode(line).prompt.request()
    assert (there.form, there.messages, there.raw_prompt) == (form, request.messages, text)
    assert there.body == {"think": True, "tools": True}


def test_a_line_has_a_bound() -> None:
    """Larger prompts are not counted: a line is shorter than eight mebibytes, without its newline."""
    empty = encode(CountPlain(ModelServer("", "m"), ("",)))
    assert empty is not None
    room = 8 * 1024 * 1024 - len(empty)
    line = encode(CountPlain(ModelServer("", "m"), ("a" * room,)))
    assert line is not None
    assert len(line) == 8 * 1024 * 1024
    assert encode(CountPlain(ModelServer("", "m"), ("a" * (room + 1),))) is None


@pytest.mark.parametrize(
    ("think", "there"),
    [(None, None), (False, False), (True, True), ("high", True), ("", False), (0, False)],
)
def test_whether_to_think_is_sent_where_it_is_said(think: Any, there: bool | None) -> None:
    """A level counts as yes."""
    assert prompt_of(chat("a", think=think)).request().body == {"think": there}
    assert prompt_of(chat("a")).request().body == {"think": None}


def test_a_form_that_is_not_known_is_read_as_a_chat() -> None:
    """As another version may send it."""
    prompt = replace(prompt_of(chat("a", suffix="}")), form="other")
    expected = ChatRequest(
        "chat", "exact", (Message("user", "a"),), True, body={"suffix": True, "think": None}
    )
    assert prompt.request() == expected


@pytest.mark.parametrize(
    "answer",
    [
        Hang(),
        Drip(),
        Cut(),
        Endless(),
        Json([]),
        Json({}, 404),
        Raw(b"{"),
        Json({"remote_host": "x"}),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_answers_that_are_none(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, drips, half and endless answers, garbage, and a remote model, in bounded time."""
    monkeypatch.setattr(vocabulary_files, "SECONDS", 0.3)
    with FakeOllama(models=(MODEL,)) as ollama:
        ollama.answers["/api/show"] = answer
        assert isinstance(show(ollama.url, "exact"), Unavailable)


def test_addresses_without_a_server() -> None:
    """And nothing is sent to a cloud."""
    with FakeOllama() as ollama:
        not_asked = Unavailable("a cloud's model is not asked about")
        assert show(ollama.url, "m:cloud") == show("https://ollama.com", "m") == not_asked
        assert ollama.received == []
    for base in (ollama.url, "http://127.0.0.1:port"):
        assert isinstance(show(base, "m"), Unavailable)


def test_a_kept_vocabulary_that_is_garbage_is_read_again(tmp_path: Path) -> None:
    """And one in a folder that cannot be written is not kept."""
    with FakeOllama(models=(MODEL,)) as ollama:
        description = show(ollama.url, "exact")
        assert isinstance(description, dict)
        file = tmp_path / f"{'e' * 64}.json"
        facts: object = None
        for garbage in (b"{", b"[]", b"\xff", b"[" * 100_000):
            file.write_bytes(garbage)
            facts = vocabulary_facts(ollama.url, "exact", description, str(tmp_path))
            assert isinstance(facts, dict)
            assert facts["tokenizer.ggml.merges"]
            assert json.loads(file.read_bytes()) == facts
        (tmp_path / "file").touch()
        nowhere = str(tmp_path / "file" / "folder")
        assert vocabulary_facts(ollama.url, "exact", description, nowhere) == facts


def test_a_few_vocabularies_are_kept(tmp_path: Path) -> None:
    """The longest unused are deleted, and nothing else in the folder."""
    (tmp_path / "notes.txt").touch()
    for number in range(12):
        file = tmp_path / f"{number:064x}.json"
        vocabulary_files._write(file, {"a": 1})
        os.utime(file, (number, number))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 1 + 8
    assert "notes.txt" in names
    assert f"{11:064x}.json" in names


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"m": 1}',
        b'{"m": {"ratios": {"by_kind": {"code": 99.0}, "errors_percent": []}}}',
        b'{"m": {"ratios": {"by_kind": {"code": "x"}}}}',
        b'{"m": {"ratios": {"by_kind": {"code": 1.0}, "errors_percent": [-1.0]}}}',
        b'{"m": {"overhead": {"samples": [{"roles": [1], "tokens": "a"}]}}}',
        b"[" * 100_000,
        b" " * (1 << 20),
    ],
)
def test_garbage_in_what_was_learned_is_ignored(content: bytes, tmp_path: Path) -> None:
    """And what stands beside it is kept."""
    (tmp_path / FILE).write_bytes(content)
    assert read_learned(str(tmp_path)) == {}
    learned = Learned(Ratios({"code": 1.5}, (2.0,)), thinks=True, template="x")
    keep_learned(str(tmp_path), "other", learned)
    assert read_learned(str(tmp_path)) == {"other": learned}


@pytest.mark.parametrize(
    ("ratio", "error", "is_sane"),
    [
        (0.1, 0.0, True),
        (8.0, 1000.0, True),
        (0.099, 0.0, False),
        (8.001, 0.0, False),
        (1.0, 1000.1, False),
        (1.0, -0.1, False),
    ],
)
def test_what_cannot_have_been_learned_is_ignored(
    ratio: float, error: float, is_sane: bool, tmp_path: Path
) -> None:
    """Ratios and errors beyond their bounds, as a damaged file may hold them."""
    learned = Learned(Ratios({"code": 1.0, "prose": ratio}, (1.0, error)))
    keep_learned(str(tmp_path), "m", learned)
    assert read_learned(str(tmp_path)) == ({"m": learned} if is_sane else {})


@pytest.mark.parametrize(("size", "is_read"), [(2**20 - 1, True), (2**20, False)])
def test_a_file_that_no_session_wrote_is_ignored(size: int, is_read: bool, tmp_path: Path) -> None:
    """What was learned of forty models takes less than a mebibyte."""
    keep_learned(str(tmp_path), "m", Learned())
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes().ljust(size))
    assert read_learned(str(tmp_path)).keys() == ({"m"} if is_read else set())


def test_only_its_owner_may_see_what_was_learned(tmp_path: Path) -> None:
    """The folder is made when it is needed, with those above it."""
    folder = tmp_path / "a" / "learned"
    for name in ("m", "n"):
        keep_learned(str(folder), name, Learned())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(read_learned(str(folder))) == ["m", "n"]


def test_what_was_learned_of_each_model_is_kept(tmp_path: Path) -> None:
    """The last 40; a folder that cannot be written is ignored; with "" nothing is kept."""
    for number in range(43):
        keep_learned(str(tmp_path), f"m{number}", Learned(template=str(number)))
    models = read_learned(str(tmp_path))
    assert (len(models), models["m42"].template, "m2" in models) == (40, "42", False)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    keep_learned(str(tmp_path / FILE), "m", Learned())
    keep_learned("", "m", Learned())
    assert read_learned("") == {}


def test_two_sessions_may_write_at_once(tmp_path: Path) -> None:
    """The file is whole at any time."""
    code = (
        "import sys; from aider_guard.counting.learned import *;"
        "[keep_learned(sys.argv[1], f'child{n % 5}', Learned()) for n in range(50)]"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as child:
        number = 0
        while child.poll() is None:
            keep_learned(str(tmp_path), f"own{number % 5}", Learned())
            assert isinstance(json.loads((tmp_path / FILE).read_bytes()), dict)
            number += 1
    assert child.returncode == 0
