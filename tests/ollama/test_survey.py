"""One server, surveyed: complete, in time, and with one reason when it does not answer."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.ollama_server import ERAS, Answer, Drip, Endless, FakeModel, FakeOllama, Hang, Json, Raw

from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.server_answers import NoAnswer
from aider_guard.core.server_report import InstalledModel, ModelFacts, ModelMissing, ServerProcess
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.survey import survey, what_helps_reaching

if TYPE_CHECKING:
    from aider_guard.core.server_report import ServerReport

AMPLE_SECONDS = 20.0
"""More than any answer takes that comes at all, on a busy machine too."""
QWEN = FakeModel("qwen3:8b")
STUB = FakeModel("gpt-oss:mine", size_bytes=384, remote_host="https://ollama.com:443")
PROCESS = ServerProcess(7, "ollama", "me", {}, "process")
NAMES = ("qwen3:8b", "nope", "gpt-oss:120b-cloud", "gpt-oss:mine")


def surveyed(
    ollama: FakeOllama, *names: str, within_seconds: float = AMPLE_SECONDS
) -> tuple[ServerReport, float]:
    """The report on a running server, and the seconds it took."""
    with ollama:
        client = OllamaClient(ollama.url, answer_seconds=60)
        started_at = time.monotonic()
        report = survey(
            client, names, within_seconds=within_seconds, find_process=lambda _base: PROCESS
        )
        seconds = time.monotonic() - started_at
        client.close()
    return report, seconds


@pytest.mark.parametrize("version", ERAS)
def test_a_server_of_every_era(version: str) -> None:
    """Everything that an era tells is in the report, and no cloud's name was sent."""
    ollama = FakeOllama(version=version, models=(QWEN, STUB), loaded=["qwen3:8b"])
    report, seconds = surveyed(ollama, *NAMES)
    assert report.version == version
    assert report.is_local
    assert report.base == ollama.url
    assert report.process == PROCESS
    assert isinstance(report.loaded, ModelsReading)
    assert [model.name for model in report.loaded.models] == ["qwen3:8b"]
    assert isinstance(report.installed, tuple)
    assert [model.name for model in report.installed] == ["qwen3:8b", "gpt-oss:mine"]
    assert isinstance(report.cloud_disabled, Unavailable) == (ollama.version_numbers < (0, 16, 2))
    assert list(report.models) == list(NAMES)
    assert isinstance(report.models["qwen3:8b"], ModelFacts)
    assert isinstance(report.models["nope"], ModelMissing)
    assert isinstance(report.models["gpt-oss:120b-cloud"], Unavailable)
    if ollama.version_numbers >= (0, 12):
        stub = report.models["gpt-oss:mine"]
        assert isinstance(stub, ModelFacts)
        assert stub.remote_host == "https://ollama.com:443"
    assert not ollama.sent_out
    assert seconds < AMPLE_SECONDS / 2  # nothing was waited for in vain


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Hang(), "did not answer within"),
        (Drip(), "did not answer within"),
        (Endless(), "cannot be reached"),
        (Raw(b"<html>router</html>"), "a form that is not Ollama's"),
        (Raw(b"404 page not found", 404), "status 404"),
        (Json({"version": 7}), "a form that is not Ollama's"),
    ],
)
def test_a_server_that_does_not_tell_its_version_is_asked_nothing_more(
    answer: Answer, reason: str
) -> None:
    """One question, one reason for every entry, in the time that was given."""
    ollama = FakeOllama(answers={"/api/version": answer})
    within = 0.4 if isinstance(answer, Hang | Drip) else AMPLE_SECONDS
    report, seconds = surveyed(ollama, "qwen3:8b", "nope", within_seconds=within)
    why = report.version
    assert isinstance(why, Unavailable)
    assert reason in why.reason
    rest = (report.installed, report.loaded, report.cloud_disabled, *report.models.values())
    assert all(entry is why for entry in rest)
    assert list(report.models) == ["qwen3:8b", "nope"]
    assert report.process == PROCESS
    assert ollama.paths() == {"/api/version"}
    assert seconds < AMPLE_SECONDS


def test_no_server_at_all() -> None:
    """A closed port is one refused connection."""
    with FakeOllama() as ollama:
        url = ollama.url
    client = OllamaClient(url)
    started_at = time.monotonic()
    report = survey(client, ["qwen3:8b"], within_seconds=AMPLE_SECONDS)
    seconds = time.monotonic() - started_at
    client.close()
    assert isinstance(report.version, Unavailable)
    assert "connection refused" in report.version.reason
    assert report.models == {"qwen3:8b": report.version}
    assert isinstance(report.process, Unavailable)
    assert seconds < AMPLE_SECONDS / 2  # nothing was waited for in vain


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/status", "/api/show"])
@pytest.mark.parametrize("answer", [Hang(), Drip(), Raw(b"garbage"), Json({"models": [7]})])
def test_one_bad_answer_leaves_the_others(path: str, answer: Answer) -> None:
    """The entry of a failed call has its reason; the others are there."""
    ollama = FakeOllama(version="0.33.0", answers={path: answer})
    within = 3.0 if isinstance(answer, Hang | Drip) else AMPLE_SECONDS
    report, seconds = surveyed(ollama, "qwen3:8b", within_seconds=within)
    entries = {
        "/api/tags": report.installed,
        "/api/ps": report.loaded,
        "/api/status": report.cloud_disabled,
        "/api/show": report.models["qwen3:8b"],
    }
    # A list that takes all of the time leaves none for the models.
    late = {"/api/show"} if path == "/api/tags" and isinstance(answer, Hang | Drip) else set()
    missing = {key for key, entry in entries.items() if isinstance(entry, Unavailable)}
    assert missing == {path} | late
    assert seconds < AMPLE_SECONDS


def test_a_process_that_is_hard_to_find_is_not_waited_for() -> None:
    """Its search has the same time as everything else."""
    with FakeOllama() as ollama:
        client = OllamaClient(ollama.url)

        def search(_base: str) -> ServerProcess:
            ollama.closing.wait()
            return PROCESS

        report = survey(client, (), within_seconds=3, find_process=search)
        client.close()
    assert isinstance(report.process, Unavailable)
    assert report.version == "0.15.5"


def test_a_bug_is_not_hidden() -> None:
    """An error in the guard's own code is raised where the result is waited for."""

    def search(_base: str) -> ServerProcess:
        raise ZeroDivisionError

    with FakeOllama() as ollama:
        client = OllamaClient(ollama.url)
        with pytest.raises(ZeroDivisionError):
            survey(client, (), find_process=search)
        client.close()


def test_a_remote_address_is_shown_without_its_password() -> None:
    """The report has the address with its path."""
    client = OllamaClient("http://me:secret@127.0.0.1:1/x")
    report = survey(client, ["a"])
    client.close()
    assert report.base == "http://127.0.0.1:1/x"
    assert "secret" not in str(report)


def test_a_name_is_asked_for_once() -> None:
    """The same model in two roles is one question."""
    ollama = FakeOllama()
    report, _ = surveyed(ollama, "qwen3:8b", "qwen3:8b")
    assert list(report.models) == ["qwen3:8b"]
    assert [request.path for request in ollama.received].count("/api/show") == 1
    assert isinstance(report.installed, tuple)
    assert report.installed[0] == replace(
        InstalledModel("qwen3:8b", QWEN.size_bytes, f"{8:064x}"),
        quantization="Q4_K_M",
        format="gguf",
    )


REFUSED = [
    (Raw(b"<html>", 401), "Ollama at {base}/x wants a key, or another one: status 401", "OLLAMA_API_KEY"),
    (Json({"detail": "no"}, 403), "Ollama at {base}/x did not allow it: status 403, no", "right key"),
    (Raw(b"<html>", 404), "nothing answers at {base}/x/api/version: status 404", "curl {base}/x/api"),
    (Raw(b"<html>", 502), "the proxy at {base}/x does not reach Ollama: status 502", "runs behind it"),
    (
        Raw(b"", 301, (("Location", "https://me:pw@box/x/api/version"),)),
        "{base}/x redirects to https://box/x/api/version, which is not followed: status 301",
        "export OLLAMA_API_BASE=https://box/x ",
    ),
    (Json({"a": 1}), "{base}/x/api/version answered in a form that is not Ollama's", "curl {base}/x/api"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reason", "helps"), REFUSED)
def test_what_stands_in_front_of_ollama_is_told_from_it(
    answer: Answer, reason: str, helps: str
) -> None:
    """``ollama serve`` would not help against any of these."""
    fake = FakeOllama(answers={"/x/api/version": answer})
    with fake as ollama, closing(OllamaClient(f"{ollama.url}/x")) as client:
        report = survey(client, ())
    assert isinstance(report.version, Unavailable)
    assert type(report.version) is Unavailable  # it goes to another process
    assert report.version.reason == reason.format(base=ollama.url)
    assert helps.format(base=ollama.url) in report.helps
    assert "ollama serve" not in report.helps


@pytest.mark.parametrize(
    ("base", "helps"),
    [
        ("http://127.0.0.1:1", "ollama serve"),
        ("http://no-such-host.invalid:1", "curl http://no-such-host.invalid:1/api/version "),
    ],
)
def test_a_server_is_to_be_started_where_nothing_listens(base: str, helps: str) -> None:
    """Not where there is no such name."""
    with closing(OllamaClient(base)) as client:
        report = survey(client, (), within_seconds=4.0)
    assert report.helps.startswith(helps)


@pytest.mark.parametrize(
    ("version", "helps"),
    [
        ("Linux version 6.8.0-40-generic (buildd@lcy02) (gcc 13.2.0)", "ollama serve"),
        (
            "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc 11.2.0)",
            "ollama serve   # one on Windows: networkingMode=mirrored in .wslconfig, or its address in OLLAMA_API_BASE",
        ),
    ],
)
def test_in_wsl_an_ollama_of_windows_is_another_machine(
    tmp_path: Path, version: str, helps: str
) -> None:
    """By the kernel's name, and only for an address of this machine; systemd is not asked."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "version").write_text(version)
    refused = NoAnswer("no", cause="Connection refused")
    assert what_helps_reaching(refused, "http://127.0.0.1:11434", tmp_path) == helps
    assert "Windows" not in what_helps_reaching(refused, "http://gpu-box:11434", tmp_path)
