"""Races: one thread changes what another one's call is about, while it is judged; 60 rounds each (attacks.c)."""

from __future__ import annotations

from airgap.battery.way import Way

_CONTROL = {"seccomp": "a datagram with control messages is refused before its address is read"}
_FOLDER = "/run/podman"  # its sockets are a daemon's, whatever their names


def _race(name: str, program: str, how: str = "", *, at_service: bool = False) -> Way:
    place = "'127.0.0.1', SERVICE" if at_service else "OUT, PORT"
    named = "127.0.0.1:{service}" if at_service else "{out}:{port}"
    silent = _CONTROL if how == "udp-rights" else {}
    code = f"attack({program!r}, WORD.decode(), {place}{f', {how!r}' if how else ''})"
    return Way(name, "races", code, named, silent=silent, has_service=at_service)


def _path(name: str, program: str, how: str, kind: str) -> Way:
    path = f"{_FOLDER}/{name}.sock"
    code = f"attack({program!r}, WORD.decode(), f'/tmp/{name}-{{NUMBER}}', {path!r}, {how!r})"
    return Way(name, "races", code, path, sockets=(f"{path} {kind}",))


def _user(how: str, named: str) -> Way:
    """A process that has become another user's, which the guard must not connect for as itself."""
    path = f"{_FOLDER}/race-user-{how}.sock"
    code = f"attack('user', WORD.decode(), OUT, PORT, {how!r}, f'/tmp/user-{{NUMBER}}', {path!r})"
    return Way(f"race-user-{how}", "races", code, named, sockets=(f"{path} stream",))


WAYS = (
    _race("race-connect", "address", "connect"),
    _race("race-connect-service", "address", "connect", at_service=True),
    _race("race-udp-connect", "address", "udp-connect"),
    _race("race-sendto", "address", "sendto"),
    _race("race-sendmsg", "address", "sendmsg"),
    _race("race-sendmmsg", "address", "sendmmsg"),
    _race("race-sendto-service", "address", "sendto", at_service=True),
    _race("race-header", "header"),
    _user("descriptor", "{out}:{port}"),
    _user("path", f"{_FOLDER}/race-user-path.sock"),
    _race("swap-fast-open", "descriptor", "fast-open"),
    _race("swap-fast-open-message", "descriptor", "fast-open-message"),
    _race("swap-fast-open-messages", "descriptor", "fast-open-messages"),
    _race("swap-fast-open-service", "descriptor", "fast-open", at_service=True),
    _race("swap-connect", "descriptor", "connect"),
    _race("swap-udp", "descriptor", "udp-to"),
    _race("swap-udp-rights", "descriptor", "udp-rights"),
    _race("swap-udp-rights-service", "descriptor", "udp-rights", at_service=True),
    _path("race-path", "path", "memory", "stream"),
    _path("race-link", "path", "link", "stream"),
    _path("race-path-datagrams", "path-datagrams", "memory", "dgram"),
)
