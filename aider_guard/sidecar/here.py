"""Whether an address is one of this machine's own. Asks no name server: that could leave it."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Address = IPv4Address | IPv6Address

_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def is_this_machine(
    base_url: str, own_addresses: Callable[[], Iterable[str]] | None = None
) -> bool:
    """Whether a URL names this machine: loopback, an address of its own, or its own host name.

    Other names are not looked up: one that only a name server knows counts as another machine.
    """
    return bool(targets(base_url, own_addresses))


def targets(
    base_url: str, own_addresses: Callable[[], Iterable[str]] | None = None
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
    if address is None:
        return ()
    if address.is_unspecified:
        return _LOOPBACK
    return (address,) if address.is_loopback or address in _parsed(own()) else ()


def parse_address(text: str) -> Address | None:
    """An address without its zone; an IPv4 address in IPv6 clothes is the IPv4 address."""
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
    """The addresses of this machine's network interfaces; none when they cannot be listed."""
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
