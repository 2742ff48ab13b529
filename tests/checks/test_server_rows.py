"""How the server is run: what is said of its memory, address, version, limits and sampling, and what is to paste."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checks.worlds import GIB, by_id, finding_of, model, process, server, world

from aider_guard.checks.all import with_arguments
from aider_guard.checks.runtime import set_variable
from aider_guard.core.findings import Severity
from aider_guard.core.readings import MemoryReading, RamReading, Unavailable
from aider_guard.launch.facts import Facts, RepoFacts
from aider_guard.launch.repository import tracked_files

NO = Unavailable("not read")


def run_as(
    run_by: str = "", version: str = "0.31.0", name: str = "ollama", **variables: str
) -> Facts:
    """A server that is run so, with these variables."""
    known = replace(process(name, **variables), run_by=run_by)
    return world(server=server(process=known, version=version))


def with_process(version: str = "0.31.0", **more: Any) -> Facts:
    """A server whose process has these facts."""
    return world(
        server=server(process=replace(process(LLAMA_ARG_CACHE_RAM="9"), **more), version=version)
    )


LINE = 'Environment="OLLAMA_X=1"'
FIXES = [
    (run_as(), "OLLAMA_X=1 ollama serve"),
    (
        run_as(OLLAMA_HOST="0.0.0.0", OLLAMA_X="4", OLLAMA_MODELS="/a b"),
        "OLLAMA_HOST=0.0.0.0 OLLAMA_MODELS='/a b' OLLAMA_X=1 ollama serve",
    ),
    (
        run_as("systemctl ollama"),
        f"sudo systemctl edit ollama   # add [Service] and {LINE}, then: sudo systemctl restart ollama",
    ),
    (
        run_as("systemctl --user llm"),
        f"systemctl --user edit llm   # add [Service] and {LINE}, then: systemctl --user restart llm",
    ),
    (
        run_as("container"),
        "start Ollama's container with this flag besides your own: -e OLLAMA_X=1",
    ),
    (
        run_as(name="docker-proxy"),
        "start Ollama's container with this flag besides your own: -e OLLAMA_X=1",
    ),
    (world(server=server(process=NO)), "OLLAMA_X=1 ollama serve"),
    (
        world(server=server(is_local=False, base="http://gpu-box:11434")),
        "in the environment of Ollama at http://gpu-box:11434: OLLAMA_X=1",
    ),
]


@pytest.mark.parametrize(("facts", "fix"), FIXES)
def test_a_variable_is_set_the_way_the_server_is_run(facts: Facts, fix: str) -> None:
    """One's own ``ollama serve`` keeps the other settings that it has."""
    assert set_variable(facts, "OLLAMA_X", "1") == fix


def test_every_setting_of_the_server_is_fixed_that_way() -> None:
    """The findings that were there before, too."""
    variables = {
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_FLASH_ATTENTION": "0",
    }
    known = replace(process(**variables), run_by="systemctl ollama")
    facts = world(server=server(process=known, cloud_disabled=False))
    for id_ in ("ollama-parallel", "ollama-kv-cache", "ollama-cloud-switch"):
        assert finding_of(facts, id_).fix.startswith("sudo systemctl edit ollama ")


def ram(total_gib: int) -> MemoryReading:
    return MemoryReading(NO, RamReading(total_gib * GIB, GIB, NO), 0.0)


CACHES: list[tuple[Facts, Severity | None]] = [
    (run_as(OLLAMA_HOST="x"), "info"),
    (replace(run_as(), memory=ram(16)), "warn"),
    (replace(run_as(), memory=ram(64)), "info"),
    (run_as(LLAMA_ARG_CACHE_RAM="512"), None),
    (run_as(version="0.24.0"), None),
    (run_as(version="0.0.0"), None),
    (world(server=server(process=NO)), None),
    (world(server=server(process=replace(process(), settings_from="log"))), None),
]


@pytest.mark.parametrize(("facts", "severity"), CACHES)
def test_a_prompt_cache_that_nothing_bounds_is_named(
    facts: Facts, severity: Severity | None
) -> None:
    """From 0.30 on, where the variables could be read; a warning where memory is short."""
    found = by_id(facts, "ollama-host-cache")
    assert [each.severity for each in found] == ([severity] if severity else [])
    assert all("LLAMA_ARG_CACHE_RAM=1024" in each.fix for each in found)


HOLES: list[tuple[Facts, Severity | None, int]] = [
    (with_process("0.17.1"), None, 0),
    (with_process("0.17.0"), "info", 1),
    (with_process("0.17.0", bound="127.0.0.1"), "info", 1),
    (with_process("0.17.0", bound="0.0.0.0"), "warn", 1),
    (with_process("0.3.14", bound="::"), "warn", 2),
    (with_process("0.1.33", bound="192.168.1.5"), "warn", 3),
    (with_process("0.0.0", bound="0.0.0.0"), None, 0),
    (world(server=server(is_local=False, version="0.9.3", process=NO)), "warn", 1),
]


@pytest.mark.parametrize(("facts", "severity", "count"), HOLES)
def test_a_version_with_known_holes_is_named(
    facts: Facts, severity: Severity | None, count: int
) -> None:
    """A warning where other machines can use them."""
    found = by_id(facts, "ollama-holes")
    assert [each.severity for each in found] == ([severity] if severity else [])
    assert sum(each.what.count("CVE-") for each in found) == count


@pytest.mark.parametrize(
    ("bound", "run_by", "fix"),
    [
        ("127.0.0.1", "", None),
        ("::1", "", None),
        ("", "", None),
        ("0.0.0.0", "", "LLAMA_ARG_CACHE_RAM=9 OLLAMA_HOST=127.0.0.1 ollama serve"),
        ("::", "systemctl ollama", "sudo systemctl edit ollama "),
        (
            "0.0.0.0",
            "container",
            "publish the container's port on this machine alone: -p 127.0.0.1:",
        ),
    ],
)
def test_a_server_that_other_machines_can_reach_is_named(
    bound: str, run_by: str, fix: str | None
) -> None:
    """By the address at which it listens."""
    found = by_id(with_process(bound=bound, run_by=run_by), "ollama-network")
    assert len(found) == (fix is not None)
    assert all(each.fix.startswith(fix or "") for each in found)


@pytest.mark.parametrize(
    ("facts", "fix"),
    [
        (run_as(OLLAMA_GPU_OVERHEAD="2147483648"), "LLAMA_ARG_FIT_TARGET=2048 ollama serve"),
        (run_as(OLLAMA_GPU_OVERHEAD="1000"), "LLAMA_ARG_FIT_TARGET=1024 ollama serve"),
        (run_as(OLLAMA_GPU_OVERHEAD="0"), ""),
        (run_as(OLLAMA_GPU_OVERHEAD="2GB"), ""),
        (run_as(OLLAMA_GPU_OVERHEAD="9" * 20), ""),
        (run_as(OLLAMA_GPU_OVERHEAD="2147483648", LLAMA_ARG_FIT_TARGET="2048"), ""),
        (run_as(version="0.24.0", OLLAMA_GPU_OVERHEAD="2147483648"), ""),
        (run_as(), ""),
    ],
)
def test_an_overhead_without_effect_is_named(facts: Facts, fix: str) -> None:
    """From 0.30 on llama.cpp has a margin of its own, in MiB for each GPU."""
    found = by_id(facts, "ollama-overhead")
    assert len(found) == bool(fix)
    assert all(each.fix.endswith(fix) for each in found)


@pytest.mark.parametrize(("quota", "threads"), [(0.0, 0), (0.5, 1), (2.5, 2), (10_000.0, 0)])
def test_a_limit_of_processors_is_named(
    monkeypatch: pytest.MonkeyPatch, quota: float, threads: int
) -> None:
    """With the number of threads that it has room for."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    found = by_id(with_process(cpu_quota=quota), "ollama-processors")
    assert len(found) == bool(threads)
    assert all(f"num_thread: {threads} " in each.fix for each in found)


def test_penalties_of_a_models_own_file_are_named() -> None:
    """Those that are not neutral."""
    own = {"presence_penalty": 1.5, "repeat_penalty": 1.0}
    finding = finding_of(world(server=server(model(sampling=own))), "sampling")
    assert finding.evidence == "its own file: presence_penalty 1.5"
    assert "add presence_penalty: 0 to extra_params" in finding.fix
    assert not by_id(world(server=server(model(sampling={"repeat_penalty": 1.0}))), "sampling")


@pytest.mark.parametrize(
    ("fix", "arguments", "whole"),
    [
        (
            "aider-guard -- --subtree-only",
            ("--model", "m x"),
            "aider-guard -- --model 'm x' --subtree-only",
        ),
        ("aider-guard --num-ctx 8192", ("a.py",), "aider-guard --num-ctx 8192 -- a.py"),
        ("aider-guard --num-ctx 8192", (), "aider-guard --num-ctx 8192"),
        (
            "ollama pull q && aider-guard -- --model ollama_chat/q",
            ("--no-git",),
            "ollama pull q && aider-guard -- --no-git --model ollama_chat/q",
        ),
        (
            "aider-guard -- --model q   # or: ollama pull p",
            ("--no-git",),
            "aider-guard -- --no-git --model q   # or: ollama pull p",
        ),
        ("aider-guard fit q --vram 16", ("a.py",), "aider-guard fit q --vram 16"),
        ("ollama serve", ("a.py",), "ollama serve"),
        ("aider-guard --network open", ("a.py",), "aider-guard --network open"),
        ("aider-guard doctor", ("a.py",), "aider-guard doctor"),
        ("aider-guard -- --x", ("--api-key", "openai=sk-1"), "aider-guard -- --x"),
        ("aider-guard -- --x", ("--openai-api-key=sk-1",), "aider-guard -- --x"),
        ("aider-guard -- --x", ("--message", "two\nlines"), "aider-guard -- --x"),
    ],
)
def test_a_command_keeps_the_users_own_arguments(
    fix: str, arguments: tuple[str, ...], whole: str
) -> None:
    """Before the new ones, as Aider takes the last of each; a key is never repeated on the screen."""
    assert with_arguments(fix, arguments) == whole


def test_the_findings_of_a_launch_repeat_its_arguments() -> None:
    facts = world(auto_test=True, arguments=("--model", "ollama_chat/qwen3:8b", "--auto-test"))
    assert finding_of(facts, "auto-test").fix == (
        "aider-guard -- --model ollama_chat/qwen3:8b --auto-test --no-auto-test"
    )


LARGE: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"tracked_files": 10_000}, {}, True),
    ({"tracked_files": 9_999}, {}, False),
    ({"tracked_files": Unavailable("not read")}, {}, False),
    ({"tracked_files": 50_000, "has_aiderignore": True}, {}, False),
    ({"tracked_files": 50_000}, {"subtree_only": True}, False),
    ({"tracked_files": 50_000}, {"map_tokens": 0}, False),
]


@pytest.mark.parametrize(("repo", "aiders", "is_said"), LARGE)
def test_a_very_large_repository_is_named(
    repo: dict[str, Any], aiders: dict[str, Any], is_said: bool
) -> None:
    """Unless the user limits it already."""
    found = by_id(world(repo=RepoFacts(**repo), **aiders), "large-repository")
    assert len(found) == is_said
    assert all(each.fix.startswith("aider-guard -- --subtree-only ") for each in found)


def test_the_files_of_a_repository_are_counted_by_gits_own_index(tmp_path: Path) -> None:
    """Of a work tree, too; what is no index is not known."""
    assert isinstance(tracked_files(tmp_path), Unavailable)
    (tmp_path / ".git").mkdir()
    index = tmp_path / ".git" / "index"
    index.write_bytes(b"DIRC" + (2).to_bytes(4, "big") + (70_000).to_bytes(4, "big") + b"more")
    assert tracked_files(tmp_path) == 70_000
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text("gitdir: ../.git\n")
    assert tracked_files(tree) == 70_000
    for content in (b"", b"DIRC", b"x" * 20):
        index.write_bytes(content)
        assert isinstance(tracked_files(tmp_path), Unavailable)
