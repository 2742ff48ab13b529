"""``doctor --report``: versions and findings to paste, and nothing that is private."""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from checks.worlds import MAIN, NO, process, role, same, server, variable, world

from aider_guard import __version__
from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.egress import Place
from aider_guard.core.findings import warn
from aider_guard.launch.facts import Facts
from aider_guard.ollama.server_process import is_wsl
from aider_guard.view.doctor import run_doctor
from aider_guard.view.doctor_report import gpu_driver, report_text

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("sk-proj-0123456789", "hunter2!", "pa:ss", "s3cret-token", "gpu-box", "ada", "10.1.2.3")
ENVIRONMENT = {
    "HOME": "/home/ada",
    "OPENAI_API_KEY": "sk-proj-0123456789",
    "DB_PASSWORD": "hunter2!",
    "HTTPS_PROXY": "http://ada:hunter2!@gpu-box:3128",
    "OLLAMA_API_BASE": "http://ada:pa:ss@gpu-box:11434",
    "TERM": "xterm-256color",
    "TMUX": "/tmp/tmux-1000/default,1,0",
}


def files(root: Path, **texts: str) -> Path:
    """A folder with the operating system's files; ``__`` in a name is a slash."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def report(
    facts: Facts, root: Path = Path("/"), environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    return report_text(facts, examine(facts), environment=environment, root=root)


def test_it_has_the_versions_of_everything(tmp_path: Path) -> None:
    """What a maintainer asks for first."""
    litellm = tmp_path / "lib" / "litellm-1.82.3.dist-info"
    litellm.mkdir(parents=True)
    (litellm / "METADATA").write_text("Metadata-Version: 2.1\nName: litellm\nVersion: 1.82.3\n")
    tokenizers = str(tmp_path / "lib" / "litellm" / "litellm_core_utils" / "tokenizers")
    root = files(
        tmp_path / "root",
        etc__os_release='PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        sys__module__nvidia__version="550.54.15\n",
    )
    (root / "etc" / "os_release").rename(root / "etc" / "os-release")
    text = report(world(*same(), tokenizers=tokenizers, python="3.12.4"), root, ENVIRONMENT)

    lines = {line[:14].rstrip(): line[14:] for line in text.splitlines()[1:] if line[:1] != " "}
    assert lines["aider-guard"].startswith(f"{__version__}, CPython {platform.python_version()}")
    assert "httpx " in lines["libraries"]
    assert lines["system"].startswith(
        f"Debian GNU/Linux 13 (trixie), {platform.system()} {platform.release()}"
    )
    assert lines["system"].endswith("without systemd")
    assert lines["Aider"] == "0.86.2, Python 3.12.4"
    assert lines["litellm"] == "1.82.3"
    assert lines["Ollama"] == "0.31.0"
    assert lines["GPU driver"] == "NVIDIA 550.54.15"
    assert lines["terminal"].startswith("xterm-256color, tmux, ")
    assert "info fit: " in text


def test_no_secret_of_environment_settings_or_addresses_gets_in() -> None:
    """Wherever it was read: each value is one that must not be shown."""
    facts = world(
        role("main", MAIN, "--model on the command line"),
        role("weak", "gpt-4o", "AIDER_WEAK_MODEL in /home/ada/till/.env"),
        config=Config(
            ollama="http://ada:pa:ss@gpu-box:11434",
            aider="/home/ada/bin/aider",
            allow=(Place("gpu-box", 22), Place("10.1.2.3", 443)),
        ),
        server=server(base="http://gpu-box:11434", is_local=False, process=process()),
        arguments=("--api-key", "openai=s3cret-token"),
        keys=(variable("OPENAI_API_KEY"),),
        addresses=(variable("HTTPS_PROXY", "http://ada:hunter2!@gpu-box:3128"),),
        problems=("/home/ada/.aider.conf.yml, line 3: openai-api-key: sk-proj-0123456789: no",),
        environment={"OLLAMA_API_BASE": ENVIRONMENT["OLLAMA_API_BASE"]},
        auto_test=True,
        test_cmd="DB_PASSWORD=hunter2! python -m pytest --token s3cret-token",
    )
    text = report(facts, environment=ENVIRONMENT)

    assert [secret for secret in SECRETS if secret in text] == []
    assert "AIDER_WEAK_MODEL in ~/till/.env" in text
    assert "setting       allow = 2 places" in text
    assert "stop side-model: the weak model, gpt-4o, would run in a cloud" in text


def test_nothing_that_was_read_ends_the_block() -> None:
    """A name of a file can be anything."""
    odd = warn("aider", "```\n# @everyone\x1b[2J", "```", "a\n```")
    text = report_text(world(), [odd], environment={})
    assert text.startswith("```text\n")
    assert text.endswith("\n```\n")
    assert text.count("```") == 2
    assert "\x1b" not in text


def test_what_is_not_known_is_said() -> None:
    """Without an Aider, an Ollama and a card."""
    facts = world(settings=NO, server=NO, aider_problem="Aider was not found as 'aider'")
    text = report(facts, Path("/nowhere"))
    assert "Aider         Aider was not found as 'aider'" in text
    assert "Ollama        no answer" in text
    assert "GPU driver    none found" in text


def test_a_driver_without_a_version_is_the_kernels(tmp_path: Path) -> None:
    """As amdgpu and i915 are."""
    files(tmp_path, sys__module__amdgpu__srcversion="x")
    assert gpu_driver(tmp_path) == "amdgpu of the kernel"


WSL = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc (GCC) 11.2.0)"


def test_windows_subsystem_for_linux_is_named(tmp_path: Path) -> None:
    """As its kernel calls itself."""
    assert not is_wsl(tmp_path)
    root = files(tmp_path, proc__version=WSL)
    assert is_wsl(root)
    assert ", in WSL, without systemd" in report(world(), root)


def test_the_form_for_faults_asks_for_it() -> None:
    """The command as it is typed."""
    form: dict[str, Any] = yaml.safe_load(
        (ROOT / ".github" / "ISSUE_TEMPLATE" / "fault.yml").read_text(encoding="utf-8")
    )
    labels = {part.get("id"): part["attributes"].get("label") for part in form["body"]}
    assert labels["report"] == "What `aider-guard doctor --report` prints"


def test_the_command_prints_it(tmp_path: Path) -> None:
    """With the status of the findings."""
    out = io.StringIO()
    status = run_doctor(
        Config(ollama="http://127.0.0.1:9"),
        (),
        state_dir=tmp_path,
        as_report=True,
        environment={"PATH": str(tmp_path)},
        out=out,
        err=io.StringIO(),
    )
    assert status == 1
    assert "stop aider-missing: " in out.getvalue()
