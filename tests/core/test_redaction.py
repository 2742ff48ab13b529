"""What a report must not show is taken out of its texts, and what it needs is left."""

from __future__ import annotations

import pytest

from aider_guard.core.redaction import PrivateWords, redact, secrets_of

PRIVATE = PrivateWords(
    home="/home/ada",
    user="ada",
    hosts=("till-box", "gpu.lan", "127.0.0.1", "localhost", "::1"),
    secrets=("correct horse", "ollama", "1"),
)

TAKEN = [
    ("AIDER_MODEL in /home/ada/till/.env", "AIDER_MODEL in ~/till/.env"),
    ("/home/grace/x and /mnt/c/Users/Grace/y", "~/x and ~/y"),
    ("C:\\Users\\Grace\\till", "~\\till"),
    ("process 812, ollama, of ada", "process 812, ollama, of USER"),
    ("http://ada:pass@gpu.lan:11434/v1?key=abc", "http://HOST:11434/v1?…"),
    ("http://ada:p@ss@127.0.0.1:11434", "http://127.0.0.1:11434"),
    ("OLLAMA_HOST=ada:pass@gpu.lan:11434", "OLLAMA_HOST=USER@HOST:11434"),
    ("https://api.example.com/v1 answers", "https://HOST/v1 answers"),
    ("Ollama at http://192.168.1.7:11434", "Ollama at http://HOST:11434"),
    ("it listens on 10.0.0.3:11434, [fd00::12:3]:80", "it listens on HOST:11434, [HOST]:80"),
    ("TILL-BOX and till-box.home", "HOST and HOST.home"),
    ("write to ada@example.com", "write to USER@example.com"),
    ("OPENAI_API_KEY=abc123", "OPENAI_API_KEY=SECRET"),
    ("openai-api-key: 'a b c'", "openai-api-key: SECRET"),
    ("--api-key openai=zzz --model x", "--api-key SECRET --model x"),
    ("--anthropic-api-key zzz", "--anthropic-api-key SECRET"),
    ("Authorization: Bearer zzz.yyy", "Authorization: Bearer SECRET"),
    ("it says correct horse battery", "it says SECRET battery"),
    ("a line with sk-abcdefgh12345 in it", "a line with SECRET in it"),
    ("ghp_0123456789abcdef, hf_0123456789", "SECRET, SECRET"),
]

LEFT = [
    "Ollama 0.31.0 at http://127.0.0.1:11434, local",
    "http://localhost:11434 and http://[::1]:11434",
    "other machines can reach Ollama (it listens on 0.0.0.0:11434)",
    "window 16,384 tokens",
    "OPENAI_API_KEY, --api-key on the command line",
    "keys or tokens of clouds are set (OPENAI_API_KEY, HF_TOKEN)",
    "ollama_chat/hf.co/bartowski/Qwen3-8B-GGUF:Q4_K_M",
    "the driver 550.54.15, version 0.24.1",
    "at 19:03:24 there were 3 of them",
    "--map-tokens 1024 --max-chat-history-tokens=2048",
    "https://ollama.com/download",
    "curl http://127.0.0.1:11434/api/version",
]


@pytest.mark.parametrize(("text", "shown"), TAKEN)
def test_what_is_private_is_taken_out(text: str, shown: str) -> None:
    """With the kind of what was there in its place."""
    assert redact(text, PRIVATE) == shown


@pytest.mark.parametrize("text", LEFT)
def test_what_a_report_needs_is_left(text: str) -> None:
    """Versions, sizes, names of models and variables, and addresses of this machine."""
    assert redact(text, PRIVATE) == text


@pytest.mark.parametrize("text", [text for text, _ in TAKEN] + LEFT)
def test_a_second_time_changes_nothing(text: str) -> None:
    """What stands in place of a secret is no secret."""
    once = redact(text, PRIVATE)
    assert redact(once, PRIVATE) == once


def test_secrets_are_known_by_the_names_of_their_variables() -> None:
    """Files with secrets are paths, which are shortened like any other."""
    environment = {
        "OPENAI_API_KEY": "a",
        "HF_TOKEN": "b",
        "DB_PASSWORD": "c",
        "AWS_SECRET_ACCESS_KEY": "d",
        "AZURE_API_KEYS": "e",
        "HOME": "/home/ada",
        "SSH_AUTH_SOCK": "/run/x",
        "MAP_TOKENS_SHOWN": "1024",
        "TERM": "xterm",
    }
    assert set("abcde") <= set(secrets_of(environment)) <= {*"abcde", "1024"}
