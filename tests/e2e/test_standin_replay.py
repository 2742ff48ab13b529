"""Whatever a real Ollama 0.33 was asked, a stand-in is asked too, in the same order: it answers and logs the same.

The recorded answers are of a server on SmolLM2-135M, which runs in the stand-in too, so what was counted is compared as
well. What the model says is not: another build or processor rounds otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from standin.gguf_file import rewritten
from standin.models import ModelStore
from standin.program import standin_ollama

from aider_guard.demo.layout import SMALL
from aider_guard.demo.model import TEMPLATE

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

CAPTURES = Path(__file__).parents[1] / "captures" / "ollama_api" / "0.33.0-rc2.jsonl"
CASES: dict[str, dict[str, Any]] = {
    case["case"]: case for case in map(json.loads, CAPTURES.read_text("utf-8").splitlines())
}
BRIEF = {"num_predict": 200, "stop": ["<|im_end|>", "."], "temperature": 0}
CLOSED_AFTER = KILLED_AFTER = 4
"""Pieces."""
SAME = frozenset(
    (
        *("role", "rendered_template", "error", "done", "object", "index", "status", "format"),
        *("prompt_eval_count", "prompt_tokens", "context_length", "size_vram"),
        *("template", "capabilities", "version", "disabled", "source"),
    )
)
"""Fields whose values are compared, not only their kinds."""


def add_models(models: Path) -> None:
    """The models of the recording that were asked for."""
    store = ModelStore(models)
    jinja = json.loads(CASES["show_tnative"]["pieces"][0])["template"]
    small = store.find(SMALL)
    assert small is not None
    file = {"model.gguf": store.add_blob(rewritten(small.file, template=jinja))}
    renderer = {"renderer": "qwen3-coder", "parser": "qwen3-coder"}
    chatml = TEMPLATE.replace("{{ range", "{{- range")
    own = {"from": SMALL, "template": chatml}
    store.create("terse", {**own, "parameters": BRIEF})
    store.create("rend", {**own, **renderer})
    store.create("tnative", {"files": file, "parameters": BRIEF})
    store.create("tpref", {"files": file, "template": chatml, "parameters": BRIEF})
    store.create("trend", {"files": file, "template": chatml, "parameters": BRIEF, **renderer})


def pieces_of(server: PrivateOllama, case: dict[str, Any], answer: httpx.Response) -> list[str]:
    """The pieces of an answer; two cases end in the middle."""
    pieces: list[str] = []
    text = ""
    try:
        for chunk in answer.iter_text():
            text += chunk
            *whole, text = re.split(r"\n+", text)
            pieces += whole
            if case["case"] == "cancelled" and len(pieces) >= CLOSED_AFTER:
                break
            if case["case"] == "runner_killed" and len(pieces) == KILLED_AFTER:
                newest = max(psutil.Process(server.pid).children(), key=psutil.Process.create_time)
                newest.kill()
    finally:
        answer.close()
    return [piece for piece in (*pieces, text) if piece]


def replay(server: PrivateOllama, case: dict[str, Any]) -> dict[str, Any]:
    """Ask again; what came, in the form of the recording."""
    begin = server.log_path.stat().st_size
    url, json_body = server.url + case["path"], case["body"]
    with httpx.stream(case["method"], url, json=json_body, timeout=90, trust_env=False) as answer:
        found = {
            "status": answer.status_code,
            "content_type": answer.headers["content-type"],
            "pieces": pieces_of(server, case, answer),
        }
    return found | {"log": logged(server, begin, case)}


def logged(server: PrivateOllama, begin: int, case: dict[str, Any]) -> list[str]:
    """The log's lines of a request, up to the one that ends it; that may come after the answer."""
    end = f'{case["method"]:<8} "{case["path"]}"'
    while True:
        with server.log_path.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode().splitlines()
        if any("[GIN]" in line and line.endswith(end) for line in lines):
            return lines


@pytest.fixture(scope="module")
def answers(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the stand-in answered to each case."""
    folder = tmp_path_factory.mktemp("replay")
    environ = {"OLLAMA_NO_CLOUD": "1"}
    with standin_ollama(rig, folder, environ=environ, add_models=add_models) as server:
        logged(server, 0, CASES["version"])  # of the question whether it is there
        yield {name: replay(server, case) for name, case in CASES.items()}


def parsed(pieces: list[str]) -> list[Any]:
    """The pieces as values."""
    texts = [piece.removeprefix("data: ").strip() for piece in pieces]
    return [text if text == "[DONE]" else json.loads(text) for text in texts if text]


def shape(value: Any, key: str = "") -> Any:
    """What must be the same in both: names, kinds, and the values of some fields."""
    match value:
        case dict():
            kept = {name: inner for name, inner in value.items() if name != "model_info"}
            return {name: shape(inner, name) for name, inner in kept.items()}
        case list() if key in ("models", "data") and len(value) > 1:
            return [
                shape(one) for one in value if "terse:latest" in (one.get("name"), one.get("id"))
            ]
        case list() if key == "tensors":
            return [shape(one) for one in value[:1]]
        case list() if key in ("context", "shape"):
            return "numbers"
        case list():
            return [shape(inner, key) for inner in value]
        case str() if key == "parameters":
            return sorted(value.splitlines())  # Go's own order is by lot
        case "stop" | "length" if key in ("done_reason", "finish_reason"):
            return "ended"
        case bool() | None:
            return value
        case _ if key in SAME:
            return value
        case int() | float():
            return "a number"
        case str():
            return "a text" if value or key == "content" else ""


def decisions(log: list[str]) -> list[str]:
    """What the log says was decided: loaded, cut, read, and how the request ended."""
    found = []
    for line in log:
        if match := re.search(r'msg="starting llama-server" cmd="\S+/llama-server (.*)"', line):
            words = re.sub(r"--model \S+ --port \d+", "--model FILE --port N", match[1])
            found.append(f"load {words}")
        elif match := re.search(r'msg="template selection" model=(.*)', line):
            found.append(match[1])
        elif match := re.search(r'msg="truncating.*|new prompt, .*|msg="llama-server term.*', line):
            found.append(match[0])
        elif match := re.search(r'\[GIN\].* \| (\d+) \|.*(?:GET|POST) +"(.*)"', line):
            found.append(f"{match[1]} {match[2]}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_that_of_the_real_one(answers: dict[str, Any], name: str) -> None:
    """Status, kind of content, names and kinds of all fields, errors, and what was counted."""
    recorded, found = CASES[name], answers[name]
    assert found["status"] == recorded["status"]
    assert found["content_type"] == recorded["content_type"]
    wanted, got = parsed(recorded["pieces"]), parsed(found["pieces"])
    if name == "cancelled":
        wanted, got = wanted[:CLOSED_AFTER], got[:CLOSED_AFTER]
    assert (shape(got[0]), shape(got[-1])) == (shape(wanted[0]), shape(wanted[-1]))
    kinds = [shape(piece) for piece in wanted]
    assert [piece for piece in got if shape(piece) not in kinds] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["log"] is not None])
def test_the_log_tells_the_same(answers: dict[str, Any], name: str) -> None:
    """Loads with the same command line, the template, what was cut, how long the prompt was, and the end."""
    found, recorded = answers[name]["log"], CASES[name]["log"]
    assert sorted(decisions(found)) == sorted(
        decisions(recorded)
    )  # the child's lines have no order among Ollama's
