"""A server's settings from its environment, its log and its runners' command lines; never a secret."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.ollama.server_process import (
    control_group,
    from_command_line,
    from_log,
    from_process,
    from_runner,
    ollama_settings,
)

PARALLEL, KV, FLASH = "OLLAMA_NUM_PARALLEL", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_FLASH_ATTENTION"
# No process has this number: Linux's end at 4,194,304, macOS's at 99,999.
NO_PID = 2**30

# What 0.9.3 logged, shortened where it repeats itself.
LOGGED = (
    "CUDA_VISIBLE_DEVICES: HTTPS_PROXY:http://me:secret@box HTTP_PROXY: OLLAMA_CONTEXT_LENGTH:4096 "
    "OLLAMA_DEBUG:INFO OLLAMA_FLASH_ATTENTION:false OLLAMA_HOST:http://127.0.0.1:11434 "
    "OLLAMA_KEEP_ALIVE:5m0s OLLAMA_KV_CACHE_TYPE:q8_0 OLLAMA_LLM_LIBRARY: "
    "OLLAMA_MODELS:/Users/A B/.ollama/models OLLAMA_NUM_PARALLEL:2 "
    "OLLAMA_ORIGINS:[http://localhost https://localhost http://localhost:* app://*] "
    "OLLAMA_SCHED_SPREAD:false ROCR_VISIBLE_DEVICES: http_proxy: no_proxy:"
)
SETTINGS = {
    "OLLAMA_CONTEXT_LENGTH": "4096",
    "OLLAMA_DEBUG": "INFO",
    "OLLAMA_HOST": "http://127.0.0.1:11434",
    "OLLAMA_KEEP_ALIVE": "5m0s",
    KV: "q8_0",
    "OLLAMA_MODELS": "/Users/A B/.ollama/models",
    PARALLEL: "2",
    "OLLAMA_ORIGINS": "[http://localhost https://localhost http://localhost:* app://*]",
    "OLLAMA_SCHED_SPREAD": "false",
}


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        (PARALLEL, "2", "2"),
        ("LLAMA_ARG_CACHE_RAM", "512", "512"),
        ("OLLAMA_KEEP_ALIVE", "-1", "-1"),
        ("OLLAMA_HOST", "http://me:secret@box:1", "http://box:1"),
        ("OLLAMA_API_KEY", "secret", None),
        ("LLAMA_ARG_HF_TOKEN", "secret", None),
        ("LLAMA_ARG_SSL_KEY_FILE", "secret", None),
        ("OLLAMA_SECRET", "secret", None),
        ("OLLAMA_PASSWORD", "secret", None),
        ("OLLAMA_AUTH", "1", None),
        ("MY_OLLAMA_HOST", "x", None),
        ("ollama_host", "x", None),
        ("HTTP_PROXY", "http://me:secret@box", None),
        ("HOME", "/home/me", None),
    ],
)
def test_only_settings_and_no_secrets(name: str, value: str, kept: str | None) -> None:
    """Ollama's and llama.cpp's variables are taken, without what could be a key or a password."""
    assert ollama_settings([(name, value)]) == ({} if kept is None else {name: kept})


def test_the_environment_of_a_process() -> None:
    """The variables of a process of this user are read."""
    environment = {**os.environ, PARALLEL: "3", "OLLAMA_API_KEY": "secret"}
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        settings = from_process(process.pid)
        process.kill()
    assert settings is not None
    assert settings[PARALLEL] == "3"
    assert "secret" not in str(settings)


def test_an_environment_that_is_hidden_is_not_an_empty_one() -> None:
    """macOS shows none of a protected program's variables: that says nothing of its settings."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env={}, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert from_process(process.pid) is None
        process.kill()


def test_a_process_that_is_gone_tells_nothing() -> None:
    """It can end between two looks."""
    assert from_process(NO_PID) is None
    assert from_log(Path(__file__), NO_PID) is None
    assert from_runner(NO_PID) is None


def line(words: str, at: datetime) -> str:
    """The line of the log, as slog writes it."""
    when = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'time={when} level=INFO source=routes.go:1235 msg="server config" env="map[{words}]"\n'


STARTED = datetime.fromtimestamp(psutil.Process().create_time(), timezone.utc)


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=-7))])
def test_the_log_of_this_start(tmp_path: Path, zone: timezone) -> None:
    """The line of this process's own start is read; one of an earlier start is not."""
    log = tmp_path / "server.log"
    earlier = line(LOGGED.replace("PARALLEL:2", "PARALLEL:9"), STARTED - timedelta(hours=1))
    log.write_text(earlier)
    assert from_log(log, os.getpid()) is None
    log.write_text(f"{earlier}a line\n{line(LOGGED, STARTED.astimezone(zone))}")
    assert from_log(log, os.getpid()) == SETTINGS


def test_flash_attention_that_was_set_is_read(tmp_path: Path) -> None:
    """Off may mean that it was not set; on is a setting."""
    log = tmp_path / "server.log"
    log.write_text(line(f"{FLASH}:true {KV}:", STARTED))
    assert from_log(log, os.getpid()) == {FLASH: "true"}


def test_no_log(tmp_path: Path) -> None:
    """There is one only beside the macOS app."""
    assert from_log(tmp_path / "server.log", os.getpid()) is None
    assert from_log(tmp_path, os.getpid()) is None


@given(st.binary(max_size=200), st.text("OLAM_:[]= \"\\\n/@'é", max_size=80))
def test_any_log_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, words: str
) -> None:
    """Whatever is in the file, the answer is settings or none."""
    log = tmp_path_factory.mktemp("any") / "server.log"
    log.write_bytes(content + b"\n" + line(words, STARTED).encode())
    assert isinstance(from_log(log, os.getpid()), dict | None)
    log.write_bytes(b'time=9999-99-99T99:99:99Z msg="server config" env="map[A:b]"\n' + content)
    assert from_log(log, os.getpid()) is None


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (
            "ollama runner --model /m/x --ctx-size 8192 --flash-attn --kv-cache-type q8_0 --parallel 2",
            {PARALLEL: "2", KV: "q8_0", FLASH: "1"},
        ),
        (
            "llama-server -c 32768 -np 1 --cache-type-k q4_0 --cache-type-v q4_0 --flash-attn on",
            {PARALLEL: "1", KV: "q4_0", FLASH: "1"},
        ),
        ("llama-server -np 4 --flash-attn off", {PARALLEL: "4", FLASH: "0"}),
        ("llama-server -np 4 --flash-attn auto", {PARALLEL: "4"}),
        ("ollama runner --parallel 1 --flash-attn", {PARALLEL: "1", FLASH: "1"}),
        ("ollama runner --ollama-engine --model /m/sha256-0 --port 36291", {}),
        ("", {}),
    ],
)
def test_a_runners_command_line(command: str, settings: dict[str, str]) -> None:
    """Each era's flags, in the words of the variables; automatic is as good as unset."""
    assert from_command_line(command.split()) == settings


def test_a_runner_of_a_real_process() -> None:
    """The children of the server are looked at."""
    assert from_runner(os.getpid()) is None
    command = [sys.executable, "-c", "print(flush=True); input()", "--parallel", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        assert from_runner(os.getpid()) == {PARALLEL: "2"}
        runner.kill()


GROUPS = [
    ("0::/system.slice/ollama.service\n", "systemctl ollama"),
    ("0::/user.slice/user-7.slice/user@7.service/app.slice/llm.service\n", "systemctl --user llm"),
    ("0::/user.slice/user-7.slice/user@7.service\n", ""),
    ("0::/user.slice/user-7.slice/session-3.scope\n", ""),
    ("0::/system.slice/docker-0123.scope\n", "container"),
    ("1:name=systemd:/x\n0::/kubepods/pod1/c\n", "container"),
    ("0::/\n", ""),
    ("", ""),
]


@pytest.mark.parametrize(("text", "run_by"), GROUPS)
def test_how_a_server_is_run_is_in_its_control_group(
    tmp_path: Path, text: str, run_by: str
) -> None:
    """Which every user may read."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(text)
    assert control_group(7, proc=tmp_path, cgroups=tmp_path) == (run_by, 0.0)
    assert control_group(8, proc=tmp_path, cgroups=tmp_path) == ("", 0.0)


def test_the_least_limit_of_processors_counts(tmp_path: Path) -> None:
    """Of the group and of those above it; "max" is none."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/a/b/c\n")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert control_group(7, proc=tmp_path, cgroups=tmp_path) == ("", 1.5)
