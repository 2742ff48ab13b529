"""Sends random requests to a door, and judges what arrives behind it by a reading of its own.

python -m door.attack_run 100000 7   (in tests/; the number of requests, and the seed)
"""

from __future__ import annotations

import json
import posixpath
import random
import re
import socket
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx
from core.chat.aider_prompts import settings
from door.attack_requests import ABSENT, ALIAS, LEAVING, AttackGrammar, AttackRequest
from door.handler_services import FixedInstalled, HandlerSetup
from door.random_clients import settled_bytes
from door.scripted import CAP_SECONDS, Connection, OpenDoor, Scripted, door_to

CLIENTS = 4
UNCLEAR_SECONDS = 0.03
"""How long an answer is waited for to a request that may have no end."""
_REQUEST_LINE = re.compile(rb"[A-Z]+ /(api|v1)/[\x21-\x7e]* HTTP/1\.1")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[^\r\n\0]*")
_NAMES = ("model", "name", "from", "source", "destination")
_LISTED = "/v1/models/"
_SEARCHING = ("/v1/messages", "/v1/responses")
_ANSWER = b'{"model":"m","message":{"role":"assistant","content":"ok"},"done":true}\n'


def leak(head: bytes, body: bytes, host: bytes, *, judges_names: bool = True) -> str:
    """Return what could leave the machine by a request that came to Ollama, or be read in two ways; "" for nothing."""
    line, *lines = head.split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(line):
        return "a request line"
    if not all(_FIELD.fullmatch(text) for text in lines):
        return "a field"
    fields = Counter(text.partition(b":")[0].lower() for text in lines)
    values = {
        name.lower(): value.strip() for name, _, value in (text.partition(b":") for text in lines)
    }
    if fields[b"host"] != 1 or values[b"host"] != host:
        return "a host"
    if fields[b"transfer-encoding"] or fields[b"content-length"] > 1:
        return "a framing"
    if values.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        return "a content coding"
    target = unquote_to_bytes(line.split(b" ")[1].partition(b"?")[0]).decode("utf-8", "replace")
    path = posixpath.normpath(target).lower()
    if path.startswith(_LISTED):  # what is behind a slash there leads nowhere
        return "a name in a path" if _runs_elsewhere(path.removeprefix(_LISTED)) else ""
    if any(path == leaving or path.startswith(f"{leaving}/") for leaving in LEAVING):
        return "a path"
    return leak_in(body, path) if body.strip() and judges_names else ""


def leak_in(body: bytes, path: str) -> str:
    """Read a body as Go's decoder does: the first JSON value, fields in any case; all of a field's values count."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    try:
        fields, _ = json.JSONDecoder(object_pairs_hook=list, strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        return "a body that cannot be read" if "cloud" in text.lower() else ""
    if not isinstance(fields, list) or not all(isinstance(item, tuple) for item in fields):
        return ""
    for key, value in fields:
        folded = key.replace("\u017f", "s").replace("\u212a", "k").lower()
        if (
            folded == "tools"
            and path in _SEARCHING
            and '"web_' in json.dumps(value).lower().replace('" web', '"web')
        ):
            return "a search"
        if folded not in _NAMES or not isinstance(value, str):
            continue
        if _runs_elsewhere(value) and path != "/api/delete":
            return "a name"
        if folded == "from" and path == "/api/create" and value.strip() == ABSENT:
            return "a base"
    return ""


def _runs_elsewhere(name: str) -> bool:
    tag = name.strip().lower().rpartition(":")[2].strip()
    return ":" in name and (tag == "cloud" or (tag.endswith("-cloud") and "/" not in tag))


@dataclass
class AttackReport:
    """What came of some requests: those that leaked (what, head, body), the answers' statuses, how many passed."""

    leaks: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    passed: int = 0
    grown_bytes: int = 0


class Attack:
    """A door to an Ollama that only judges what it receives, and clients that send it random requests."""

    def __init__(self, seed: int, *, refuse_cloud: bool = True) -> None:
        self._seed = seed
        self._report = AttackReport()
        self._lock = threading.Lock()
        installed = FixedInstalled(remote={ALIAS: "https://ollama.com"}, absent=(ABSENT,))
        self._setup = HandlerSetup(
            settings=settings(refuse_cloud=refuse_cloud), installed=installed
        )
        self._host = b""

    def run(self, requests: int) -> AttackReport:
        """Send this number of requests. The memory is compared with what it was after the first tenth."""
        with (
            Scripted(self._judge) as upstream,
            door_to(self._setup.handler, upstream.base) as door,
        ):
            self._host = f"127.0.0.1:{upstream.port}".encode()
            self._send(door, requests // 10, "first")
            before = settled_bytes()
            self._send(door, requests - requests // 10, "then")
            self._report.grown_bytes = settled_bytes() - before
            url = f"{door.base}/api/version"
            assert httpx.get(url, trust_env=False, verify=False).status_code == 200
        return self._report

    def _send(self, door: OpenDoor, requests: int, part: str) -> None:
        with ThreadPoolExecutor(CLIENTS) as clients:
            chances = [random.Random(f"{self._seed} {part} {number}") for number in range(CLIENTS)]
            for sent in [
                clients.submit(self._client, door, c, requests // CLIENTS) for c in chances
            ]:
                sent.result()

    def _client(self, door: OpenDoor, chance: random.Random, requests: int) -> None:
        grammar = AttackGrammar(chance)
        connected: socket.socket | None = None
        for _ in range(requests):
            request = grammar.request()
            connected = connected or door.connect()
            status, is_kept = _exchange(connected, request)
            with self._lock:
                self._report.statuses[status] += 1
            if not is_kept:
                connected.close()
                connected = None
        if connected:
            connected.close()

    def _judge(self, connection: Connection) -> None:
        while True:
            head, body = connection.request()
            if not head:
                return
            what = leak(head, body, self._host)
            with self._lock:
                self._report.passed += 1
                if what:
                    self._report.leaks.append((what, head, body))
            self._forget()
            connection.whole(b"" if head.startswith(b"HEAD") else _ANSWER)

    def _forget(self) -> None:
        setup = self._setup
        records: tuple[list[Any], ...] = (setup.events, setup.installed.lookups)
        for record in (
            *records,
            setup.residency.calls,
            setup.model_info.requests,
            setup.counter.learned,
        ):
            record.clear()


def _exchange(connected: socket.socket, request: AttackRequest) -> tuple[int, bool]:
    """Send a request; return the status of its first answer (0: none), and whether the connection can be used again."""
    connected.settimeout(CAP_SECONDS if request.is_whole else UNCLEAR_SECONDS)
    received = b""
    is_over = False
    with suppress(ConnectionError, TimeoutError):
        connected.sendall(request.content)
        while not is_over:
            piece = connected.recv(65536)
            if not piece:
                break
            received += piece
            is_over = request.is_whole and _is_whole_answer(received, request)
    line = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[:12]
    return (int(line[9:]) if line else 0), is_over and b"connection: close" not in received


def _is_whole_answer(received: bytes, request: AttackRequest) -> bool:
    head, end, body = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    if not end:
        return False
    if request.content.startswith(b"HEAD") or b"\r\nconnection: close" in head:
        return request.content.startswith(b"HEAD")
    if length := re.search(rb"content-length: (\d+)", head.lower()):
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n")


def main() -> None:
    """Run the attack, and print what came of it."""
    requests, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    report = Attack(seed).run(requests)
    print(f"seed {seed}: {requests} requests, {report.passed} passed on, {len(report.leaks)} leaks")
    print(f"statuses: {sorted(report.statuses.items())}")
    print(f"memory: {report.grown_bytes / 1024**2:+.1f} MiB after the first tenth")
    for what, head, body in report.leaks[:10]:
        print(what, head, body[:500])


if __name__ == "__main__":
    main()
