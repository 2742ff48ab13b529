"""Recognising and wording the errors of servers, era by era."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.errors import (
    FailedRequest,
    Failure,
    error_text,
    failure_of_answer,
    failure_of_words,
    fitting_window,
    lines,
    short_words,
)
from aider_guard.core.chat.events import NOT_TOLD, Reason
from aider_guard.core.chat.types import WindowNeed

GIB = 2**30
SMALLER = (WindowNeed(16384, 9 * GIB), WindowNeed(8192, 7 * GIB), WindowNeed(4096, 6 * GIB))
REMOTE = FailedRequest("qwen3:8b", "http://gpu-box:11434", is_here=False)
LLAMA = FailedRequest("m", "http://127.0.0.1:8080", is_ollama=False)
OLLAMA = FailedRequest("qwen3:8b", "http://127.0.0.1:11434", smaller_windows=SMALLER)
PROXY = FailedRequest("qwen3:8b", "http://box:3000/ollama", is_here=False, path="/api/chat")
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
ENDED = "process has terminated"
UNKNOWN = "error loading model: unknown model architecture: 'mllama'"
UNKNOWN_TOKENISER = (
    "error loading model: error loading model vocabulary: unknown pre-tokenizer type: 'qwen35'"
)
BROKEN_FILE = "tensor 'blk.3.ffn_up.weight' data is not within the file bounds, model is corrupted or incomplete"
INCOMPATIBLE = (
    "this model may be incompatible with your version of Ollama. If you previously pulled this model, try updating it"
    " by running `ollama pull x`"
)
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the"
    " context length in settings, or use a model with a longer context length"
)
# As users report them (lmstudio-bug-tracker 546 and 2256, opencode 11141).
KEEPS = "Trying to keep the first 9000 tokens when context the overflows. However, the model is"
MORE = "The number of tokens to keep from the initial prompt is greater than the context length"
STUDIO = [
    (f"{KEEPS} loaded with context length of only 4096 tokens, which is not enough.", 9000, 4096),
    ("Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)", 15028, 7424),
    (f"{MORE} (n_keep: 10247 >= n_ctx: 4096). Try to load the model with", 10247, 4096),
]
NATIVE = json.dumps(
    {
        "error": {
            "code": 400,
            "message": "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9000,
            "n_ctx": 8192,
        }
    }
)


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (404, 'model "x" not found, try pulling it first', "missing"),
        (404, "model 'x' not found", "missing"),
        (404, {"message": "model 'x' not found", "type": "api_error"}, "missing"),
        (404, {"message": "The model `x` does not exist.", "type": "NotFoundError"}, "missing"),
        (500, "model requires more system memory (12.3 GiB) than is available (3.1 GiB)", "memory"),
        (500, "model request too large for system", "memory"),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", "memory"),
        (500, "llama-server reported out-of-memory during startup: hipMalloc failed", "memory"),
        (500, "unable to allocate CUDA0 buffer", "memory"),
        (500, "VK_ERROR_OUT_OF_DEVICE_MEMORY", "memory"),
        (500, "llama runner process has terminated: exit status 2", "crashed"),
        (500, "llama-server process has terminated: signal: killed", "crashed"),
        (500, f"llama-server {ENDED}: exit status 1: {UNKNOWN}\n{UNKNOWN}", "unsupported"),
        (500, f"exception error loading model architecture: {UNKNOWN}", "unsupported"),
        (500, "unable to load model: /models/blobs/sha256-a3f1", "unsupported"),
        (500, f"llama runner: failed to load model '/models/x': {INCOMPATIBLE}", "unsupported"),
        (500, f"llama runner {ENDED}: {INCOMPATIBLE}", "unsupported"),
        (500, f"llama runner {ENDED}: error loading model: {BROKEN_FILE}", "unsupported"),
        (500, f"{UNKNOWN_TOKENISER}", "unsupported"),
        (503, f"{UNKNOWN}", "unsupported"),
        (500, "error loading model: unable to allocate CUDA0 buffer", "memory"),
        (500, "error loading model: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "memory"),
        (500, "unexpected server status: llm busy - no slots available", "busy"),
        (500, "unexpected server status: llm server loading model", "busy"),
        (500, "unexpected server status: llm server launched", "busy"),
        (500, "unexpected server status: llm server not responding", "crashed"),
        (500, "unexpected server status: llm server error", "crashed"),
        (500, STOPPED, "crashed"),
        (500, "an error was encountered while running the model: unexpected EOF", "crashed"),
        (503, "server busy, please try again.  maximum pending requests exceeded", "busy"),
        (503, {"message": "Loading model", "type": "unavailable_error", "code": 503}, "busy"),
        (503, "overloaded", "busy"),
        (400, "the input length exceeds the context length", "overflow"),
        (400, TOO_LONG, "overflow"),
        (400, NATIVE, "overflow"),
        (
            500,
            "input length (9000 tokens) exceeds the model's maximum context length (8192 tokens)",
            "overflow",
        ),
        (
            400,
            {
                "message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"
            },
            "overflow",
        ),
        *((400, words, "overflow") for words, _, _ in STUDIO),
        (500, "Failed to load model: insufficient system resources", "memory"),
        (400, "No models loaded. Please load a model in the developer page", "missing"),
        (404, {"message": "no router for requested model", "code": "not_found"}, "missing"),
        (500, {"message": "unspecific error: upstream command exited prematurely"}, "crashed"),
        (403, "ollama cloud is disabled: remote model is unavailable", "cloud"),
        (401, "unauthorized", "forbidden"),
        (413, "x", "proxy"),
        (400, "invalid options: num_gpu", "refused"),
        (500, "something new", "refused"),
    ],
)
def test_errors_of_all_eras_are_told_apart(status: int, error: Any, reason: str) -> None:
    """The words of an error count before its status."""
    failure = failure_of_answer(status, json.dumps({"error": error}).encode())
    assert failure.reason == reason
    assert failure.waits is (reason == "busy")


@pytest.mark.parametrize("asker", [OLLAMA, LLAMA], ids=["ollama", "other"])
def test_a_model_that_repeats_itself_is_named_as_that(asker: FailedRequest) -> None:
    """Ollama reports it as an error since September 2026; the same message would only end the same way."""
    failure = failure_of_words("prediction aborted, token repeat limit reached", 500)
    first, second = lines(failure, asker)
    assert re.fullmatch(r"the model repeated itself until .* ended its answer", first)
    assert second.startswith("send your message again in other words")


@pytest.mark.parametrize(("words", "tokens", "window"), STUDIO)
def test_lm_studio_tells_how_much_it_would_have_to_keep(
    words: str, tokens: int, window: int
) -> None:
    """Which is most of the prompt, or all of it: its size is known by about that."""
    failure = failure_of_words(words)
    found = (failure.prompt_tokens, failure.window_tokens, failure.is_at_least)
    assert found == (tokens, window, True)


@pytest.mark.parametrize(
    ("error", "prompt", "window"),
    [
        (NATIVE, 9000, 8192),
        (
            "input length (9000 tokens) exceeds the model's maximum context length (8192 tokens)",
            9000,
            8192,
        ),
        (
            "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
            9000,
            8192,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
            9000,
            8192,
        ),
        ("the input length exceeds the context length", NOT_TOLD, NOT_TOLD),
    ],
)
def test_the_servers_own_numbers_are_read(error: str, prompt: Any, window: Any) -> None:
    """The server's numbers are exact."""
    failure = failure_of_answer(400, json.dumps({"error": error}).encode())
    assert failure.reason == "overflow"
    assert (failure.prompt_tokens, failure.window_tokens) == (prompt, window)


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (502, b"<html><h1>502 Bad Gateway</h1></html>", "proxy"),
        (503, b"<html>503 Service Temporarily Unavailable</html>", "proxy"),
        (504, b"<html>504 Gateway Time-out</html>", "proxy"),
        (413, b"<html>413 Request Entity Too Large</html>", "proxy"),
        (401, b"<html>401 Authorization Required</html>", "forbidden"),
        (301, b"<html>301 Moved Permanently</html>", "strange"),
        (404, b"404 page not found", "strange"),
        (403, b"", "forbidden"),
        (500, b"", "strange"),
        (500, b"\x00\xff\x1b[2J", "strange"),
        (418, b"[]", "strange"),
    ],
)
def test_an_answer_in_no_known_form_is_not_the_servers(
    status: int, content: bytes, reason: str
) -> None:
    """It is a proxy's, which is waited for where it says that it will pass, or another program's."""
    failure = failure_of_answer(status, content)
    assert failure.reason == reason
    assert failure.waits is (status in (502, 503, 504))


@pytest.mark.parametrize(
    ("failure", "asker", "first", "second"),
    [
        (
            Failure("missing"),
            FailedRequest("qwen3:9b", "x", alike=("qwen3:8b", "qwen3:4b")),
            "Ollama has no model qwen3:9b",
            "ollama pull qwen3:9b   then send your message again; installed: qwen3:8b, qwen3:4b",
        ),
        (
            Failure("down", "Connection refused"),
            OLLAMA,
            "Ollama does not answer at http://127.0.0.1:11434: Connection refused",
            "ollama serve   then send your message again",
        ),
        (
            failure_of_words(
                "model requires more system memory (12.0 GiB) than is available (7.5 GiB)"
            ),
            OLLAMA,
            "qwen3:8b does not fit into memory: model requires",
            "aider-guard --num-ctx 8192   needs 7.0 GiB in all",
        ),
        (
            failure_of_words("cudaMalloc failed: out of memory"),
            OLLAMA,
            "qwen3:8b does",
            "aider-guard --num-ctx 16384 ",
        ),
        (
            failure_of_words("out of memory"),
            FailedRequest("a", "x"),
            "a does not fit",
            "a smaller model",
        ),
        (
            failure_of_words(STOPPED),
            OLLAMA,
            "the process of qwen3:8b crashed: model runner",
            "send your message again",
        ),
        (
            failure_of_words(f"llama-server {ENDED}: exit status 1: {UNKNOWN}"),
            OLLAMA,
            "Ollama cannot run qwen3:8b: llama-server process has terminated: exit status 1: error loading",
            "update Ollama (ollama -v shows its version), or take another model: /model ollama_chat/NAME",
        ),
        (
            failure_of_words(f"unable to load model: {BROKEN_FILE}"),
            OLLAMA,
            "Ollama cannot run qwen3:8b: unable to load model: tensor",
            "ollama rm qwen3:8b && ollama pull qwen3:8b   fetches its file again",
        ),
        (
            failure_of_words(f"unable to load model: {BROKEN_FILE}"),
            REMOTE,
            "Ollama cannot run qwen3:8b: unable to load model: tensor",
            "OLLAMA_HOST=http://gpu-box:11434 ollama rm qwen3:8b && OLLAMA_HOST=http://gpu-box:11434 ollama pull",
        ),
        (
            Failure("unsupported", UNKNOWN),
            REMOTE,
            "Ollama cannot run qwen3:8b: error loading model: unknown",
            "update Ollama on that machine (http://gpu-box:11434), or take another model",
        ),
        (
            Failure("unsupported", UNKNOWN),
            LLAMA,
            "the model server cannot run m: error loading model: unknown",
            "update it, or start it with another model",
        ),
        (Failure("busy"), OLLAMA, "Ollama stayed busy", "wait for its other"),
        (
            Failure("cloud", "x"),
            OLLAMA,
            "not sent: qwen3:8b would run in Ollama's cloud",
            "ollama list",
        ),
        (
            Failure("strange", "teapot", 418),
            OLLAMA,
            "what answers at http://127.0.0.1:11434 is not Ollama: status 418: teapot",
            "curl http://127.0.0.1:11434/api/version",
        ),
        (
            failure_of_answer(502, b"<html><h1>502 Bad Gateway</h1>nginx</html>"),
            PROXY,
            "the proxy at http://box:3000/ollama does not reach Ollama: status 502: 502 Bad Gateway nginx",
            "see that Ollama runs behind it, then send your message again",
        ),
        (
            failure_of_answer(504, b"<html>"),
            PROXY,
            "the proxy at http://box:3000/ollama gave up waiting for Ollama: status 504",
            "let it wait longer (nginx: proxy_read_timeout 600s), then send your message again",
        ),
        (
            failure_of_answer(413, b"<html>"),
            PROXY,
            "the proxy at http://box:3000/ollama takes no request of this size: status 413",
            "let it take more (nginx: client_max_body_size 64m), or make the prompt smaller: /drop FILE",
        ),
        (
            failure_of_answer(401, b'{"detail":"Not authenticated"}'),
            PROXY,
            "Ollama at http://box:3000/ollama wants a key, or another one: status 401: Not authenticated",
            "export OLLAMA_API_KEY=KEY   or a user and password in the address",
        ),
        (
            failure_of_answer(401, b'{"detail":"Not authenticated"}'),
            LLAMA,
            "the model server at http://127.0.0.1:8080 wants a key, or another one: status 401",
            "set the key of its provider (OPENAI_API_KEY)",
        ),
        (
            failure_of_answer(404, b'{"detail":"Not Found"}'),
            PROXY,
            "nothing answers at http://box:3000/ollama/api/chat: status 404: Not Found",
            "curl http://box:3000/ollama/api/version   shows whether the path",
        ),
        (
            failure_of_answer(301, b"", "https://me:secret@box:3443/ollama/api/chat?key=secret"),
            PROXY,
            "http://box:3000/ollama redirects to https://box:3443/ollama/api/chat, which is not followed: status 301",
            "export OLLAMA_API_BASE=https://box:3443/ollama   if that is your server",
        ),
        (
            failure_of_answer(302, b"", "/login"),
            PROXY,
            "http://box:3000/ollama redirects to /login, which is not followed: status 302",
            "name the address that it leads to (OLLAMA_API_BASE)",
        ),
        (
            failure_of_answer(307, b""),
            LLAMA,
            "http://127.0.0.1:8080 redirects, which is not followed: status 307",
            "name the address that it leads to (OPENAI_API_BASE)",
        ),
        (
            Failure("down", "no connection in time"),
            OLLAMA,
            "Ollama does not answer at http://127.0.0.1:11434: no connection in time",
            "curl http://127.0.0.1:11434/api/version   shows whether the address is right",
        ),
        (
            Failure("down", "certificate verify failed"),
            replace(OLLAMA, address="https://localhost:443"),
            "Ollama does not answer at https://localhost:443: certificate verify failed",
            "export SSL_CERT_FILE=CA.pem ",
        ),
        (
            Failure("strange"),
            LLAMA,
            "what answers at http://127.0.0.1:8080 is not the model server: no answer in its protocol",
            "curl http://127.0.0.1:8080   shows what it is",
        ),
        (
            failure_of_words(STOPPED),
            OLLAMA,
            "the process of qwen3:8b crashed: model runner",
            "send your message again: Ollama starts it anew; if it crashes again, aider-guard --num-ctx 16384",
        ),
        (
            Failure("crashed"),
            REMOTE,
            "the process of qwen3:8b crashed",
            "send your message again: Ollama starts it anew; if it crashes again, a smaller model",
        ),
        (
            Failure("memory"),
            replace(LLAMA, smaller_windows=SMALLER),
            "m does not fit into memory",
            "a smaller model, or closing what else uses the memory, helps",
        ),
        (
            Failure("forbidden", "", 403),
            OLLAMA,
            "Ollama at http://127.0.0.1:11434 did not",
            "is it the",
        ),
        (Failure("refused", "no", 400), OLLAMA, "Ollama refused it: no", "its log says more"),
        (
            failure_of_answer(400, b'{"error":"\\"terse:latest\\" does not support thinking"}'),
            OLLAMA,
            'Ollama refused it: "terse:latest" does not support thinking',
            "/think-tokens 0   or take reasoning_effort",
        ),
        (
            failure_of_answer(
                400, b'{"error":"think value \\"low\\" is not supported for this model"}'
            ),
            OLLAMA,
            'Ollama refused it: think value "low" is not supported',
            "/think-tokens 0   or take reasoning_effort",
        ),
        (
            failure_of_answer(400, b'{"error":"\\"bge:latest\\" does not support chat"}'),
            OLLAMA,
            'Ollama refused it: "bge:latest" does not support chat',
            "/model ollama_chat/NAME   takes a model that does",
        ),
        (
            Failure("missing"),
            FailedRequest("m", "x", is_ollama=False),
            "the model server has no model m",
            "the model must",
        ),
        (
            Failure("refused", "no", 400),
            OLLAMA,
            "Ollama refused it: no",
            "its log says more: journalctl -u ollama, or where it was started",
        ),
        (
            Failure("refused", "no", 400),
            REMOTE,
            "Ollama refused it: no",
            "its log on that machine (http://gpu-box:11434) says more",
        ),
        (
            Failure("refused", "no", 400),
            LLAMA,
            "the model server refused it: no",
            "its log says more: it is where the server was started",
        ),
        (
            Failure("lost", "Connection timed out"),
            REMOTE,
            "the connection to http://gpu-box:11434 was lost: Connection timed out",
            "see that Ollama runs there and that the network is up, then send your message again",
        ),
        (
            Failure("down", "No route to host"),
            REMOTE,
            "Ollama does not answer at http://gpu-box:11434: No route to host",
            "see that it runs there and that the network is up, then send your message again",
        ),
        (
            Failure("down", "Connection refused"),
            LLAMA,
            "the model server does not answer at http://127.0.0.1:8080: Connection refused",
            "start it, then send your message again",
        ),
        (
            Failure("crashed", "the answer broke off"),
            LLAMA,
            "the process of m crashed: the answer broke off",
            "start it, then send your message again; if it crashes again, a smaller model",
        ),
        (
            Failure("crashed", "upstream command exited prematurely"),
            replace(LLAMA, server="llama-swap"),
            "the process of m crashed: upstream command exited prematurely",
            "send your message again: llama-swap starts it anew; its log says more",
        ),
        (
            Failure("missing", "no router for requested model"),
            replace(LLAMA, server="llama-swap"),
            "llama-swap has no model m",
            "the model must be one that it serves",
        ),
        (
            Failure("missing"),
            REMOTE,
            "Ollama has no model qwen3:8b",
            "OLLAMA_HOST=http://gpu-box:11434 ollama pull qwen3:8b   then",
        ),
    ],
)
def test_each_failure_is_said_in_two_lines(
    failure: Failure, asker: FailedRequest, first: str, second: str
) -> None:
    """The first line says what happened, the second names the command that helps."""
    one, two = lines(failure, asker)
    assert one.startswith(first)
    assert two.startswith(second)


@pytest.mark.parametrize("reason", get_args(Reason))
@pytest.mark.parametrize("asker", [REMOTE, LLAMA], ids=["remote", "llama.cpp"])
def test_no_log_or_service_is_named_that_is_not_there(reason: Reason, asker: FailedRequest) -> None:
    """Neither a server that is not Ollama nor one of another machine has a log in this machine's journal, or is started
    here by ``ollama serve``.
    """
    said = " ".join(lines(Failure(reason, "x"), asker))
    assert "journalctl" not in said
    assert "ollama serve" not in said


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ("", 16384),
        ("than is available (9.5 GiB)", 16384),
        ("than is available (8.9 GiB)", 8192),
        ("than is available (6442450944 B)", 4096),
        ("than is available (9.0 GiB)", 16384),
        ("than is available (9437184 KiB)", 16384),
        ("than is available (9437183 KiB)", 8192),
        ("than is available (9216 MiB)", 16384),
        ("than is available (9215.9 MiB)", 8192),
        ("than is available (0.0088 TiB)", 16384),
        ("than is available (0.0087 TiB)", 8192),
        ("than is available (6442450943 B)", None),
        ("than is available (900.0 MiB)", None),
        # Not known for a size:
        ("than is available (1.2.3 GiB)", 16384),
        ("than is available (. GiB)", 16384),
        ("than is available (5 GB)", 16384),
    ],
)
def test_the_window_named_fits_into_what_is_there(words: str, window: int | None) -> None:
    """It is the largest window that fits."""
    found = fitting_window(words, SMALLER)
    assert (found.window_tokens if found else None) == window
    assert fitting_window(words, ()) is None


@given(st.text(max_size=500))
def test_a_servers_words_are_safe_to_print(words: str) -> None:
    """They become one short line without control characters."""
    shown = short_words(words)
    assert len(shown) <= 160
    assert shown.isprintable()
    one, two = lines(Failure("refused", words), OLLAMA)
    assert "\n" not in one + two


@given(st.integers(400, 599), st.binary(max_size=300))
def test_any_error_is_understood_somehow(status: int, content: bytes) -> None:
    """Any content becomes two lines, and nothing raises."""
    assert all(lines(failure_of_answer(status, content), OLLAMA))


def test_an_error_in_an_error_in_an_error_is_opened() -> None:
    """Ollama passes its runner's answer on as a text."""
    inner = json.dumps({"error": {"message": "deep"}})
    assert error_text(json.dumps({"error": inner}).encode()) == "deep"
    assert error_text(b'{"error":"' + b"{" * 5000 + b'"}').startswith("{")


@pytest.mark.parametrize(
    ("status", "words", "reason", "waits"),
    [
        (401, "", "forbidden", False),
        (403, "", "forbidden", False),
        (402, "", "strange", False),
        (404, "", "strange", False),
        (500, "", "strange", False),
        (503, "not now", "busy", True),
        (502, "not now", "proxy", True),
        (504, "not now", "proxy", True),
        (524, "not now", "proxy", True),
        (404, "Not Found", "strange", False),
        (404, "Model not found", "missing", False),
        (405, "not here", "strange", False),
        (401, "who are you", "forbidden", False),
        (402, "who are you", "refused", False),
        (403, "who are you", "forbidden", False),
        (304, "not modified", "refused", False),
        (503, "out of memory", "memory", False),
        (404, "out of memory", "memory", False),
        (401, "out of memory", "memory", False),
    ],
)
def test_a_status_speaks_where_the_words_do_not(
    status: int, words: str, reason: str, waits: bool
) -> None:
    content = json.dumps({"error": words}).encode() if words else b"<html>"
    failure = failure_of_answer(status, content)
    assert (failure.reason, failure.waits, failure.status) == (reason, waits, status)


SIGN_IN = {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=box&key=abc"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SIGN_IN, "cloud"),
        ({**SIGN_IN, "signin_url": ""}, "forbidden"),
        ({"error": "unauthorized"}, "forbidden"),
        ({"detail": "Not authenticated"}, "forbidden"),
        ({"signin_url": 1, "error": "unauthorized"}, "forbidden"),
    ],
)
def test_only_ollama_itself_says_that_its_cloud_wants_a_login(body: object, reason: str) -> None:
    """By the address at which to sign in. Any other 401 is of a proxy that wants a key."""
    assert failure_of_answer(401, json.dumps(body).encode()).reason == reason


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        ("loading model", Failure("busy", "loading model", 0, True)),
        (UNKNOWN, Failure("unsupported", UNKNOWN)),
        ("something new", Failure("refused", "something new")),
        (
            f"request (9 tokens) exceeds the available context size ({'8' * 5000} tokens)",
            Failure(
                "overflow",
                f"request (9 tokens) exceeds the available context size ({'8' * 5000} tokens)",
            ),
        ),
        (
            "request (9 tokens) exceeds the available context size (8 tokens)",
            Failure(
                "overflow",
                "request (9 tokens) exceeds the available context size (8 tokens)",
                prompt_tokens=9,
                window_tokens=8,
            ),
        ),
        (
            "out of memory: prompt (length 9) ... maximum model length of 8",
            Failure("memory", "out of memory: prompt (length 9) ... maximum model length of 8"),
        ),
    ],
)
def test_words_in_the_middle_of_an_answer_have_no_status(words: str, failure: Failure) -> None:
    """Only a busy server is waited for, and numbers count only where the prompt was too large."""
    assert failure_of_words(words) == failure


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"error":"a"}', "a"),
        (b'{"error":{"error":"a"}}', "a"),
        (b'{"error":{"message":"a"}}', "a"),
        (b'{"error":{"code":5}}', "{'code': 5}"),
        (b'{"message":"a"}', "a"),
        (b'{"detail":"a"}', "a"),
        (b'{"detail":5}', ""),
        (b'{"x":"a"}', ""),
        (b'{"error":""}', ""),
        (b'{"error":"{\\"x\\":1}"}', '{"x":1}'),
        (b'{"error":"a\xff"}', "a\ufffd"),
        (b"[" * 9999, ""),
    ],
)
def test_the_words_of_an_error(content: bytes, words: str) -> None:
    """In each form that a server writes; none where it is no error's form."""
    assert error_text(content) == words


def test_a_page_is_shown_without_its_marks() -> None:
    """The first 4096 bytes of it, on one line."""
    page = b"<html><h1>500\n Bad</h1></html>".ljust(4093) + b"xyz0"
    assert failure_of_answer(500, page) == Failure("strange", "500 Bad xyz", 500)


def test_other_words_are_cut_to_a_line() -> None:
    """160 characters with the mark of what is left out, and blanks for what is no character."""
    assert short_words("x" * 160) == "x" * 160
    assert short_words("x" * 161) == f"{'x' * 159}…"
    assert short_words("a\n\tb  c\x1b") == "a b c"
