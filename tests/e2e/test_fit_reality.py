"""What core/fit computes is what a real Ollama allocates: KV cache and compute graph of the small model."""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from e2e.conftest import PRIVATE

from aider_guard.core.architecture import Architecture
from aider_guard.core.fit import Need, need
from aider_guard.core.model_memory import Candidate, KvType, Runtime
from aider_guard.core.server_report import ModelFacts
from aider_guard.demo import ollama_server
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama
from aider_guard.ollama.client import OllamaClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from aider_guard.demo.layout import Rig

pytestmark = pytest.mark.servers(PRIVATE)
MIB = 1 << 20
WINDOWS = (2048, 4096, 8192)
CLOSE = 0.02
START_SECONDS = 60.0
KV = re.compile(r"KV self size\s*=\s*([\d.]+) MiB, K \((\w+)\)")
GRAPH = re.compile(r"CPU compute buffer size\s*=\s*([\d.]+) MiB")


@pytest.fixture(scope="module")
def small(ollama: PrivateOllama) -> ModelFacts:
    """The small model, as the guard's own client learns of it."""
    with closing(OllamaClient(ollama.url)) as client:
        facts = client.model_facts("small", client.installed())
    assert isinstance(facts, ModelFacts)
    return facts


def needed(small: ModelFacts, window: int, runtime: Runtime) -> Need:
    """What is computed for it."""
    assert isinstance(small.architecture, Architecture)
    assert isinstance(small.size_bytes, int)
    return need(Candidate("small", small.size_bytes, small.architecture), window, runtime)


def assert_allocated(log: str, expected: Need, kind: KvType) -> None:
    """The log's last buffers are the computed ones, within 2 %."""
    kv_mib, logged_kind = KV.findall(log)[-1]
    graph_mib = GRAPH.findall(log)[-1]

    assert logged_kind == kind
    assert float(kv_mib) == pytest.approx(expected.kv_bytes / MIB, rel=CLOSE)
    assert float(graph_mib) == pytest.approx(expected.graph_bytes / MIB, rel=CLOSE)


def load(server: PrivateOllama, window: int) -> str:
    """Load the small model with this window, and return what the server logged meanwhile."""
    start = server.log_path.stat().st_size
    options = {"num_ctx": window, "num_predict": 1}
    request = {"model": "small", "prompt": "Hello", "stream": False, "options": options}
    httpx.post(
        f"{server.url}/api/generate", json=request, timeout=120, trust_env=False, verify=False
    ).raise_for_status()
    return server.log_path.read_bytes()[start:].decode(errors="replace")


@pytest.mark.parametrize("window", WINDOWS)
def test_cache_and_graph_are_what_ollama_logs(
    ollama: PrivateOllama, small: ModelFacts, window: int
) -> None:
    """At f16, without flash attention, which Ollama 0.9.3 does not use on a CPU."""
    ollama.unload("small")
    log = load(ollama, window)

    assert_allocated(log, needed(small, window, Runtime("A", flash_attention=False)), "f16")


def test_a_quantised_cache_that_is_asked_for_in_vain(
    rig: Rig, small: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q8_0 with flash attention on a CPU: Ollama warns, takes f16, and so does the computation."""
    plain = ollama_server._environ
    asked = {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0"}
    monkeypatch.setattr(ollama_server, "_environ", lambda *given: {**plain(*given), **asked})
    with private_ollama(rig.ollama, rig.models, folder=tmp_path) as server:
        log = load(server, 4096)

    assert "quantized kv cache requested but flash attention disabled" in log
    assert_allocated(log, needed(small, 4096, Runtime("A", "q8_0", 1, False)), "f16")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_cache_and_graph_of_a_runner_with_flash_attention(
    rig: Rig, small: ModelFacts, window: int, kind: KvType
) -> None:
    """The program that Ollama starts for a model, started with the flags it gives on a GPU."""
    (blob,) = (rig.models / "blobs").glob(f"*{small.blob[-64:]}")
    environ = ollama_server._environ(rig.ollama, rig.models, rig.models, 0)
    command: list[str | Path] = [rig.ollama / "server/ollama-lib", "runner", "--model", blob]
    options = [
        "--ctx-size",
        str(window),
        "--batch-size",
        "512",
        "--n-gpu-layers",
        "0",
        "--port",
        "0",
    ]
    # --no-mmap: this build of the runner crashes on weights that are mapped
    flash = ["--flash-attn", "--kv-cache-type", kind, "--threads", "1", "--no-mmap"]
    with runner([*command, *options, *flash], rig.ollama / "server", environ) as log:
        assert_allocated(log, needed(small, window, Runtime("A", kind)), kind)


@contextmanager
def runner(command: list[str | Path], folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """A runner's log up to the line with the compute graph; it ends with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=subprocess.STDOUT,
    ) as process:
        cap = threading.Timer(START_SECONDS, process.kill)
        cap.start()
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.decode(errors="replace"))
                if GRAPH.search(lines[-1]):
                    break
            yield "".join(lines)
        finally:
            cap.cancel()
            process.kill()
