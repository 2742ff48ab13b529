"""The next prompt, told by real Aider in its air gap: what is read ahead is what is then sent, byte for byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e.chatting import ChattingOllama
from e2e.people import Guarded

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

SECRET = "the-content-of-a-file"
OTHERS = [path for path in os.environ.get("AIDER_GUARD_TEST_AIDERS", "").split(":") if path]
MESSAGES = (
    *("What is it?", "/add till/prices.py", "Is it right?", "/ask |And the other one?"),
    *("Is sold_1 |right?", "Shall it be so?"),
)
"""What stands before a bar is typed first: it has another prompt read, for its mode or with its map."""


def expected(bodies: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The messages of the last piece that was read ahead, but for the question that stands for the next one."""
    pieces = [body for body in bodies if body["options"].get("num_predict") == 1]
    return [{key: one[key] for key in ("role", "content")} for one in pieces[-1]["messages"][:-1]]


def add_shops(repo: Path) -> None:
    """Files of which the map cannot hold all: which it shows depends on the names in a message."""
    names = range(9)
    for name in names:
        (repo / f"till/shop{name}.py").write_text(f"def sold_{name}(day):\n    return day\n")
    uses = [f"from till.shop{name} import sold_{name}\nsold_{name}(1)\n" for name in names]
    (repo / "till/ledger.py").write_text("".join(uses))
    for command in (["add", "till"], ["commit", "-qm", "shops"]):
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *command]
        subprocess.run(git, cwd=repo, check=True)


@pytest.mark.parametrize("model", ["ollama_chat/small", "ollama/small"])
@pytest.mark.parametrize("aider", ["rig", *OTHERS])
def test_what_is_read_ahead_is_what_is_sent(
    rig: Rig, tmp_path: Path, aider: str, model: str
) -> None:
    """From the first prompt on, with the next file as well; and none of it is written anywhere."""
    repo = make_sample(tmp_path / "till")
    (repo / "till/prices.py").write_text(f"# {SECRET}\n")
    add_shops(repo)
    (tmp_path / "home").mkdir()
    with ChattingOllama(version="0.35.0") as ollama:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "AIDER_GUARD_STATE_DIR": str(tmp_path / "state"),
            "OLLAMA_API_BASE": ollama.url,
        }
        arguments = ["--model", model, "--no-gitignore", "--no-show-model-warnings"]
        arguments += ["--map-tokens", "60"]  # for three of the shops
        options = ["--num-ctx", "8192", "--probe", "never", "--read-ahead", "on"]
        program = str(rig.aider_command) if aider == "rig" else aider
        with Guarded(program, arguments, options=options, env=env, cwd=repo) as person:
            person.wait_for_prompt()
            read = 0
            for line in MESSAGES:
                read += 1
                person.wait_for_event("prompt_read_ahead", read)
                first, _, rest = line.rpartition("|")
                if first:
                    person.type(first.encode())
                    read += 1
                    person.wait_for_event("prompt_read_ahead", read)
                before = list(ollama.chats)
                person.ask(rest)
                if model.startswith("ollama_chat") and not rest.startswith("/"):
                    sent = next(one for one in ollama.chats[len(before) :] if one.get("stream"))
                    head = expected(before)
                    assert head == [
                        {key: one[key] for key in ("role", "content")}
                        for one in sent["messages"][: len(head)]
                    ]
                    assert len(head) == len(sent["messages"]) - 1
            person.wait_for_event("next_prompt_compared", 5)
            compared = person.journal("next_prompt_compared")
            written = [path for path in person.folder().rglob("*") if path.is_file()]
            kept = [path.read_bytes() for path in written]
            person.type(b"/exit\r")
            assert person.end() == 0
    assert [(line["matched_percent"], line["parted_in"]) for line in compared] == [(100, "")] * 5
    assert SECRET in str(ollama.chats)
    assert not [content for content in kept if SECRET.encode() in content]
