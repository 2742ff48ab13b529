"""Addresses and model names, read the way Ollama reads them. Pure, and cheap to import."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

DEFAULT_BASE: Final = "http://127.0.0.1:11434"

_PORTS: Final = {"http": "80", "https": "443"}
_CLOUD: Final = re.compile(r":cloud$|:[^/:]*-cloud$", re.IGNORECASE)
_REGISTRY: Final = "registry.ollama.ai/"
_LIBRARY: Final = "library/"
_CLOUD_HOSTS: Final = ("ollama.com", "ollama.ai")


def connectable_base(text: str) -> str:
    """The URL to connect to, from what ``OLLAMA_API_BASE`` or ``OLLAMA_HOST`` holds; never raises.

    As Ollama's own envconfig/config.go: the scheme is optional, a bare host means port 11434,
    ``http://`` means 80 and ``https://`` 443, an impossible port means the default, a path is kept.
    The server reads the same variable as the address to listen on, so that "everywhere"
    (``0.0.0.0``, ``::``) becomes loopback.
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
    base = f"{scheme}://{userinfo}{at}{_loopback_if_everywhere(host)}:{port}"
    return f"{base}/{path}".rstrip("/")


def _host_and_port(hostport: str) -> tuple[str, str]:
    """Split at the port's colon, which none of an IPv6 address's is."""
    if hostport.count(":") > 1 and "]" not in hostport:
        return hostport, ""
    host, colon, port = hostport.rpartition(":")
    if not colon or "]" in port:
        return hostport, ""
    return host, port


def _loopback_if_everywhere(host: str) -> str:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host or "127.0.0.1"
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{address}]"
    return "127.0.0.1" if address.is_unspecified else str(address)


def display_base(base_url: str) -> str:
    """An address as it may be shown: without a user name, a password or a path."""
    scheme, _, rest = base_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def is_loopback(base_url: str) -> bool:
    """Whether a URL names this machine. Own addresses of other interfaces are not recognised."""
    try:
        host = urlsplit(base_url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_cloud_base(base_url: str) -> bool:
    """Whether a URL is that of Ollama's own cloud."""
    try:
        host = (urlsplit(base_url).hostname or "").rstrip(".")
    except ValueError:
        return False
    return host in _CLOUD_HOSTS or host.endswith(tuple(f".{cloud}" for cloud in _CLOUD_HOSTS))


def full_name(name: str) -> str:
    """A model's name as Ollama lists it: with its tag, without its defaults, in its own case.

    Tag ``latest``, namespace ``library`` and host ``registry.ollama.ai`` are Ollama's defaults
    (types/model/name.go).
    """
    name = name.strip()
    for default in (_REGISTRY, _LIBRARY):
        if name.lower().startswith(default):
            name = name[len(default) :]
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def canonical_name(name: str) -> str:
    """One spelling of a model's name, for comparing: ``Qwen3`` is ``library/qwen3:latest``.

    Ollama compares names without regard to case (types/model/name.go).
    """
    return full_name(name.lower())


def is_cloud_name(name: str) -> bool:
    """Whether Ollama (0.18 and later) would send requests for this name to its cloud unasked.

    That is any name whose tag is ``cloud`` or ends in ``-cloud`` (internal/modelref/modelref.go).
    """
    return _CLOUD.search(name.strip()) is not None
