"""Reads the addresses of servers the way Ollama does, and tells which of them are addresses of this machine."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Address = IPv4Address | IPv6Address

DEFAULT_BASE: Final = "http://127.0.0.1:11434"

_PORTS: Final = {"http": "80", "https": "443"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~-]{0,15}")
"""A part of a path that is no secret: a key is longer."""
_CLOUD_HOSTS: Final = ("ollama.com", "ollama.ai")


def connectable_base(text: str) -> str:
    """The URL to connect to, from a value of ``OLLAMA_API_BASE`` or ``OLLAMA_HOST``; never raises.

    As Ollama's own envconfig/config.go: the scheme is optional, a bare host means port 11434,
    ``http://`` means 80 and ``https://`` 443, an impossible port means the default, a path is kept.
    The server listens on the address in the same variable, so the unspecified address (``0.0.0.0``,
    ``::``) becomes loopback.
    """
    text = text.strip().strip("\"'").strip()
    if text == "ollama.com":  # Ollama 0.12.6 and later
        return "https://ollama.com:443"
    scheme, separator, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("http", text)
    authority, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    userinfo, at, hostport = authority.rpartition("@")
    host, port = _host_and_port(hostport)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        port = _PORTS.get(scheme, "11434") if separator else "11434"
    base = f"{scheme}://{userinfo}{at}{_loopback_if_unspecified(host)}:{port}"
    return f"{base}/{path}".rstrip("/")


def _host_and_port(hostport: str) -> tuple[str, str]:
    """Split at the colon before the port; the colons within an IPv6 address are no such colon."""
    if hostport.count(":") > 1 and "]" not in hostport:
        return hostport, ""
    host, colon, port = hostport.rpartition(":")
    if not colon or "]" in port:
        return hostport, ""
    return host, port


def _loopback_if_unspecified(host: str) -> str:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host or "127.0.0.1"
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{address}]"
    return "127.0.0.1" if address.is_unspecified else str(address)


def display_base(base_url: str) -> str:
    """An address for display: without a user name or a password, and with "…" for a part of its path that may be a
    secret, as in the address of another session's door.
    """
    path = re.split(r"[?#]", base_url.partition("://")[2], maxsplit=1)[0].partition("/")[2]
    parts = (part if _PLAIN.fullmatch(part) else "…" for part in path.rstrip("/").split("/"))
    return (
        f"{public_base(base_url)}/{'/'.join(parts)}" if path.strip("/") else public_base(base_url)
    )


def public_base(base_url: str) -> str:
    """An address by its scheme, host and port alone: without a user name, a password or a path."""
    scheme, _, rest = base_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def is_loopback(base_url: str) -> bool:
    """Whether the host of a URL is a loopback address or ``localhost``."""
    try:
        host = urlsplit(base_url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_cloud_base(base_url: str) -> bool:
    """Whether a URL leads to Ollama's own cloud."""
    try:
        host = (urlsplit(base_url).hostname or "").rstrip(".")
    except ValueError:
        return False
    return host in _CLOUD_HOSTS or host.endswith(tuple(f".{cloud}" for cloud in _CLOUD_HOSTS))


# Addresses of this machine. No name server is asked: the question would leave the machine, and may take seconds.

HOSTS: Final = Path("/etc/hosts")
_MAX_HOSTS_BYTES: Final = 4 * 1024 * 1024  # lists that block advertisements are long
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def is_this_machine(
    base_url: str, own_addresses: Callable[[], Iterable[str]] | None = None
) -> bool:
    """Whether a URL leads to this machine: by a loopback address, an address of one of its interfaces, its host name,
    or a name for which its ``/etc/hosts`` has only such addresses.

    Other names are not looked up: a name that only a name server knows counts as another machine.
    """
    return bool(targets(base_url, own_addresses))


def targets(
    base_url: str, own_addresses: Callable[[], Iterable[str]] | None = None, *, hosts: Path = HOSTS
) -> tuple[Address, ...]:
    """The addresses of this machine that a URL may mean, loopback first; none for another machine."""
    try:
        host = (urlsplit(base_url).hostname or "").lower()
    except ValueError:
        return ()
    if host == "localhost":
        return _LOOPBACK[::-1]  # IPv6 first, as getaddrinfo(3) sorts them
    own = own_addresses or interface_addresses
    if host and host == socket.gethostname().lower():
        return (*_LOOPBACK, *_parsed(own()))
    address = parse_address(host)
    if address is not None and address.is_unspecified:
        return _LOOPBACK
    named = hosts_file_addresses(hosts, host) if address is None else (address,)
    return named if all(each.is_loopback or each in _parsed(own()) for each in named) else ()


def hosts_file_addresses(hosts: Path, host: str) -> tuple[Address, ...]:
    """The addresses of a name in a file in the form of hosts(5); none when it cannot be read."""
    try:
        with hosts.open("rb") as file:
            content = file.read(_MAX_HOSTS_BYTES)
    except OSError:
        return ()
    if host.encode("utf-8", "replace") not in content.lower():  # saves parsing a long list
        return ()
    text = content.decode("utf-8", "replace")
    words = (line.partition("#")[0].lower().split() for line in text.splitlines())
    return _parsed(first for first, *names in filter(None, words) if host in names)


def parse_address(text: str) -> Address | None:
    """An address without its zone; an IPv4 address mapped into IPv6 becomes the IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parsed(texts: Iterable[str]) -> tuple[Address, ...]:
    return tuple(address for text in texts if (address := parse_address(text)) is not None)


def interface_addresses() -> tuple[str, ...]:
    """The addresses of this machine's network interfaces; none if they cannot be listed."""
    import psutil

    try:
        interfaces = psutil.net_if_addrs()
    except (psutil.Error, OSError):
        return ()
    families = (socket.AF_INET, socket.AF_INET6)
    return tuple(
        entry.address
        for addresses in interfaces.values()
        for entry in addresses
        if entry.family in families
    )
