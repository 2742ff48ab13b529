"""Random requests by which a program inside the sandbox may try to have Ollama send something out of the machine.

A request is made by the grammar of HTTP and of Ollama's bodies, then changed in one to three places: in names, paths,
encodings, the framing of the body, case.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from urllib.parse import quote

from door.scripted import TOKEN

LOCAL = ("qwen3:8b", "llama3.2", "hf.co/a/b:Q4_K_M", "cloud", "clouds:8b", "cloud/x:8b")
CLOUD = (
    *("gpt-oss:120b-cloud", "x:cloud", "library/x:cloud", "registry.ollama.ai/library/x:cloud"),
    *("https://ollama.com/library/x:cloud", "deepseek-v3.1:671b-cloud", "hf.co/a/b:q-cloud"),
    *("x: cloud", "x:\tcloud\n", " x:\u00a0Cloud ", "gpt-oss: 120b-cloud\u2003"),
)
ALIAS = "alias:latest"
"""Installed, but runs elsewhere."""
ABSENT = "absent:1b"
"""Not installed: Ollama would fetch it."""
STAYING = (
    *("/api/chat", "/api/generate", "/api/show", "/api/embed", "/api/tags", "/api/ps"),
    *("/api/create", "/api/copy", "/api/delete", "/v1/chat/completions", "/v1/completions"),
    *("/v1/models", "/v1/models/qwen3:8b", "/v1/responses", "/v1/messages", "/api/version"),
)
LEAVING = (
    *("/api/pull", "/api/push", "/api/signin", "/api/signout", "/api/me", "/api/user/keys/x"),
    *("/api/web_search", "/api/web_fetch", "/api/experimental/web_search", "/v1/models/x:cloud"),
)
_BLANKS = (" ", "\t", "\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u3000")
_KEYS = ("model", "Model", "MODEL", "mOdEl", "name", "NAME", "from", "From", "\u017fource")
_CODINGS = (
    *("chunked", "Chunked", "xchunked", "chunked, chunked", "identity", "gzip, chunked"),
    *("chunked\x0b", "\tchunked", "chunked;q=1", ""),
)


@dataclass(frozen=True)
class AttackRequest:
    """Bytes to send. ``is_whole``: every reader takes them for one whole request, so one answer comes."""

    content: bytes
    is_whole: bool


class AttackGrammar:
    """Makes one random request after the other."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def request(self) -> AttackRequest:
        """Return the next request."""
        chance = self._chance
        path = chance.choice(STAYING if chance.random() < 0.8 else LEAVING)
        method = (
            "POST" if chance.random() < 0.8 else chance.choice(("GET", "DELETE", "PUT", "HEAD"))
        )
        body, fields = self._body(), ["Host: 127.0.0.1", "Content-Type: application/json"]
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 3))):
            path = self._changed_path(path)
        if chance.random() < 0.06:
            body, coding = self._coded(body)
            fields.append(f"Content-Encoding: {coding}")
        if chance.random() < 0.15:
            fields.append(self._strange_field())
        if chance.random() < 0.25:
            return AttackRequest(self._misframed(method, path, fields, body), is_whole=False)
        if chance.random() < 0.25:
            fields.append("Transfer-Encoding: chunked")
            framed = self._chunks(body)
        else:
            fields.append(f"Content-Length: {len(body)}")
            framed = body
        return AttackRequest(self._head(method, path, fields) + framed, is_whole=True)

    def _head(self, method: str, path: str, fields: list[str]) -> bytes:
        chance = self._chance
        token = TOKEN if chance.random() < 0.96 else chance.choice(("", "x", TOKEN.upper()))
        target = f"/{token}{path}"
        if chance.random() < 0.05:
            hosts = ("127.0.0.1", "ollama.com", "me@ollama.com", "[::1]:80", "ollama.com:443")
            target = f"http://{chance.choice(hosts)}{target}"
        version = "HTTP/1.1" if chance.random() < 0.97 else chance.choice(("HTTP/1.0", "HTTP/2.0"))
        if chance.random() < 0.02:
            method = chance.choice(("post", "CONNECT", "PRI", "TRACE", "P OST", "OPTIONS"))
        chance.shuffle(fields)
        return "\r\n".join((f"{method} {target} {version}", *fields, "", "")).encode("utf-8")

    def _chunks(self, body: bytes) -> bytes:
        cut = self._chance.randint(0, len(body))
        parts = [part for part in (body[:cut], body[cut:]) if part]
        extension = self._chance.choice((b"", b"", b";x=1", b';x="y"'))
        late = self._chance.choice(
            (b"", b"", b"Content-Encoding: gzip\r\n", b"Host: ollama.com\r\n")
        )
        chunks = (b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        return b"".join(chunks) + b"0\r\n" + late + b"\r\n"

    def _changed_path(self, path: str) -> str:
        chance = self._chance
        place = chance.randrange(1, len(path))
        before, char, after = path[:place], path[place], path[place + 1 :]
        slash = path.rfind("/")
        return chance.choice(
            (
                f"{before}%{ord(char[0]):02x}{after}",
                f"{before}%25{ord(char[0]):02x}{after}",
                before + char.swapcase() + after,
                f"{path[:slash]}/{path[slash:]}",
                f"{path[:slash]}/.{path[slash:]}",
                f"{path[:slash]}%2f{path[slash + 1 :]}",
                f"{path[:slash]}\\{path[slash + 1 :]}",
                f"/api/chat/..{chance.choice(LEAVING)[4:]}",
                f"/v1/models/%2e%2e/%2e%2e{chance.choice(LEAVING)}",
                f"/v1/models/{quote(self._name(), safe='')}",
                *(
                    f"{path}{end}"
                    for end in ("/", "%00", ";x", "?model=x:cloud", "#x", "%0d%0aX:y")
                ),
                *(f"{path}{end}" for end in ("%20", "\u00e9", "%e9", " ", "\t", "?x#/api/pull")),
            )
        )

    def _name(self) -> str:
        chance = self._chance
        kind = chance.random()
        name = chance.choice(LOCAL if kind < 0.7 else CLOUD)
        if kind > 0.92:
            return chance.choice((ALIAS, ABSENT))
        if chance.random() < 0.3:
            name = "".join(chance.choice((char, char.upper())) for char in name)
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            blank = chance.choice(_BLANKS)
            name = blank + name if chance.random() < 0.5 else name + blank
        return name

    def _text(self, text: str) -> str:
        """Return a text in JSON, some characters of which are escaped though they need not be."""
        if self._chance.random() < 0.75:
            return json.dumps(text, ensure_ascii=self._chance.random() < 0.5)
        escaped = (f"\\u{ord(char):04x}" if self._chance.random() < 0.5 else char for char in text)
        whole = "".join(escaped)
        return f'"{whole}"' if min(text, default=" ") >= " " else json.dumps(text)

    def _body(self) -> bytes:
        chance = self._chance
        members = [
            f"{self._text(chance.choice(_KEYS if chance.random() < 0.4 else _KEYS[:1]))}:"
            f"{self._text(self._name())}"
            for _ in range(chance.choice((1, 1, 1, 1, 2, 3)))
        ]
        members.append('"messages":[{"role":"user","content":"hello"}]')
        members.append(f'"stream":{chance.choice(("true", "false", "null"))}')
        if chance.random() < 0.1:
            kinds = ("function", "web_search_20250305", "Web_Search", " web_fetch")
            members.append(f'"tools":[{{"type":"{chance.choice(kinds)}","name":"x"}}]')
        if chance.random() < 0.02:
            members.append(f'"x":{"[" * 3000}{"]" * 3000}')
        chance.shuffle(members)
        body = f"{{{','.join(members)}}}"
        return self._changed_body(body) if chance.random() < 0.2 else body.encode("utf-8")

    def _changed_body(self, body: str) -> bytes:
        other = f'{{"model":{self._text(chance_name)}}}' if (chance_name := self._name()) else ""
        cut = self._chance.randrange(len(body))
        return self._chance.choice(
            (
                b"\xef\xbb\xbf" + body.encode(),
                body.encode("utf-16"),
                body.encode("utf-32-le"),
                (body + other).encode(),
                (other + "\n" + body).encode(),
                f"[{body}]".encode(),
                body[:cut].encode(),
                body.encode().replace(b":", b"\xff:", 1),
                b" \r\n\t" + body.encode() + b"\0",
                body.replace('"', "'").encode(),
                f"/**/{body}".encode(),
                b"",
            )
        )

    def _coded(self, body: bytes) -> tuple[bytes, str]:
        coding = self._chance.choice(
            ("gzip", "GZIP", "zstd", "identity", "identity, gzip", "br", "")
        )
        return (gzip.compress(body) if "gzip" in coding.lower() else body), coding

    def _strange_field(self) -> str:
        words = ("content-length", "host", "transfer-encoding", "x", "upgrade", "content-encoding")
        return self._chance.choice(
            (
                f"Connection: {self._chance.choice(words)}, close",
                "Host: ollama.com",
                "X-Forwarded-Host: ollama.com",
                "X-HTTP-Method-Override: DELETE",
                "X-Original-URL: /api/pull",
                "Upgrade: websocket\r\nConnection: upgrade",
                "Upgrade: h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
                "Expect: 100-continue",
                "X: a\r\n b",
                "X: a\rY: b",
                "X: a\nTransfer-Encoding: chunked",
                "X: \0",
                "X : y",
                ": y",
                "X\x0b: y",
                "X: \u00e9",
                "Proxy-Authorization: Basic eDp5",
            )
        )

    def _misframed(self, method: str, path: str, fields: list[str], body: bytes) -> bytes:
        """Return a request whose end readers may see in different places, mostly with a second one inside."""
        chance = self._chance
        name = json.dumps({"model": chance.choice(CLOUD)}).encode()
        start = chance.choice((f"/{TOKEN}", ""))
        inner = f"POST {start}{chance.choice((*LEAVING, '/api/chat'))} HTTP/1.1\r\nHost: x\r\n"
        second = inner.encode() + b"Content-Length: %d\r\n\r\n" % len(name) + name
        size = len(body)
        whole = f"Content-Length: {size}"
        coded = f"Transfer-Encoding: {chance.choice(_CODINGS)}"
        kind = chance.randrange(9)
        match kind:
            case 0:  # two framings
                content = self._chunks(body) + second
                more = [f"Content-Length: {chance.choice((size, len(content), 0, 4))}", coded]
            case 1:  # two lengths
                content, more = body + second, [whole, f"Content-Length: {size + len(second)}"]
            case 2:  # a length that is no number
                forms = (
                    f"+{size}",
                    f"0x{size:x}",
                    f"{size}, {size}",
                    f"-{size}",
                    f"{size}\x0b",
                    "",
                )
                content, more = body + second, [f"Content-Length: {chance.choice(forms)}"]
            case 3:  # a coding that is none
                content, more = self._chunks(body) + second, [coded]
            case 4:  # too short, too long
                length = max(0, size + chance.choice((-size, -1, 1, -size // 2, len(second))))
                content, more = body + second, [f"Content-Length: {length}"]
            case 5:  # chunks with a strange size
                sizes = (
                    f"0x{size:x}",
                    f"+{size:x}",
                    f"{size:x} ",
                    f"-{size:x}",
                    "f" * 17,
                    f"0{size:x}",
                )
                chunk = f"{chance.choice(sizes)}\r\n".encode() + body + b"\r\n0\r\n\r\n"
                content, more = chunk + second, ["Transfer-Encoding: chunked"]
            case 6:  # a blank before the colon, a folded line, a bare line feed
                names = (
                    "Transfer-Encoding :",
                    "Transfer-Encoding:\r\n",
                    "X: y\nTransfer-Encoding:",
                )
                content = self._chunks(body) + second
                more = [whole, f"{chance.choice(names)} chunked"]
            case 7:  # line feeds alone
                head = self._head(method, path, [*fields, whole]).replace(b"\r\n", b"\n")
                return head + body + second
            case _:  # two requests, one after the other
                content, more = body + second, [whole]
        return self._head(method, path, [*fields, *more]) + content
