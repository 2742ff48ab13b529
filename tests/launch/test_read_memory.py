"""What there is to choose from is asked once, and silence is no wait without end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from fakes.nvml import GIB, Card, FakeDriver
from fakes.ollama_models import FakeModel
from fakes.ollama_server import FakeOllama, Hang

from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts
from aider_guard.launch import gathering
from aider_guard.launch.gathering import ask_server, read_memory
from aider_guard.line_process import LineProcess
from aider_guard.sidecar.gpu import NOT_YET

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_local_model_is_described_and_no_other_is_asked_for() -> None:
    """A stub's name is not sent: newer servers ask their cloud about it."""
    models = (
        FakeModel("qwen3:8b"),
        FakeModel("mine:latest"),
        FakeModel("far:latest", remote_host="https://ollama.com:443"),
        FakeModel("near:480b-cloud"),
    )
    with FakeOllama(version="0.18.0", models=models) as ollama:
        report = ask_server(ollama.url)
        described = {
            request.body["model"] for request in ollama.received if request.path == "/api/show"
        }

    assert described == {"qwen3:8b", "mine:latest"}
    assert {
        name for name, facts in report.models.items() if isinstance(facts, ModelFacts)
    } == described


def test_of_very_many_models_only_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a request; the list itself is whole."""
    monkeypatch.setattr(gathering, "MOST_MODELS", 2)
    models = tuple(FakeModel(f"m{number}:latest") for number in range(5))
    with FakeOllama(models=models) as ollama:
        report = ask_server(ollama.url)

    assert isinstance(report.installed, tuple)
    assert (len(report.installed), len(report.models)) == (5, 2)


def test_a_server_that_does_not_answer_is_a_report_with_the_reason() -> None:
    """Nothing listens, or what listens hangs."""
    with FakeOllama() as ollama:
        ollama.answers["/api/version"] = Hang()
        hanging = ask_server(ollama.url)
    refused = ask_server(ollama.url)

    for report in (hanging, refused):
        assert isinstance(report.installed, Unavailable)
        assert report.models == {}


def test_the_memory_is_read_with_the_cards_of_the_driver(tmp_path: Path) -> None:
    """Totals and what is used, as the driver tells them."""
    driver = FakeDriver(tmp_path)
    driver.write(Card(total_bytes=24 * GIB, used_bytes=3 * GIB))
    worker = LineProcess("aider_guard.sidecar.nvml", environment=driver.environment)
    reading = read_memory(lambda: worker, patience_seconds=30)

    assert not isinstance(reading.gpus, Unavailable)
    assert [(gpu.vram_total_bytes, gpu.vram_used_bytes) for gpu in reading.gpus] == [
        (24 * GIB, 3 * GIB)
    ]
    assert not isinstance(reading.ram, Unavailable)


def test_a_driver_that_stays_silent_is_given_up() -> None:
    """After more than the sensor's own second, and with its reason."""
    moments = iter([0.0, 0.0, 99.0])
    worker = LineProcess("aider_guard.sidecar.nvml")
    os.kill(worker.pid, signal.SIGSTOP)
    reading = read_memory(lambda: worker, clock=lambda: next(moments))

    assert reading.gpus == NOT_YET
