"""Addresses as Ollama reads them, and which of them are addresses of this machine, found without a name server."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.ollama.names import (
    connectable_base,
    display_base,
    interface_addresses,
    is_cloud_base,
    is_loopback,
    is_this_machine,
    targets,
)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ('"127.0.0.1:11434"', "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("http://[fe80::1]:8080", "http://[fe80::1]:8080"),
        ("box", "http://box:11434"),
        ("box:8080", "http://box:8080"),
        ("192.168.0.7", "http://192.168.0.7:11434"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("HTTPS://Box", "https://Box:443"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("box:8080/ollama/v2", "http://box:8080/ollama/v2"),
        ("http://box:11434?x=1#y", "http://box:11434"),
        ("http://me:secret@box:11434", "http://me:secret@box:11434"),
        ("box:99999", "http://box:11434"),
        ("box:-1", "http://box:11434"),
        ("box:x", "http://box:11434"),
        ("https://box:x", "https://box:443"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_connectable_base(text: str, base: str) -> None:
    """Both variables' forms become a URL to connect to, and that URL stays what it is."""
    assert connectable_base(text) == base
    assert connectable_base(base) == base
    assert httpx.URL(base).host


@given(st.text("htps:/.[]@0123456789abc?# \"'é", max_size=40))
def test_any_text_is_an_address(text: str) -> None:
    """Nothing that a variable may hold makes the address functions fail."""
    base = connectable_base(text)
    assert "://" in base
    assert isinstance(is_loopback(base), bool)
    assert isinstance(display_base(base), str)


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("https://me:secret@box:443/x", "https://box:443/x"),
        ("http://box:3000/ollama/", "http://box:3000/ollama"),
        ("http://127.0.0.1:4321/hV7c1P0QmN3bXw8tYzK2aL5d", "http://127.0.0.1:4321/…"),
        ("http://box:3000/proxy/sk-4711471147114711/v1", "http://box:3000/proxy/…/v1"),
        ("http://box:3000/a?key=secret#secret", "http://box:3000/a"),
        ("http://box:3000/a b", "http://box:3000/…"),
        ("http://box:3000/?key=secret", "http://box:3000"),
    ],
)
def test_display_base(base: str, shown: str) -> None:
    """The path is shown, as a proxy may serve Ollama below one. A password is not, nor what may be a key."""
    assert display_base(base) == shown


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.1.2.3:1", True),
        ("http://localhost:11434", True),
        ("http://[::1]:11434", True),
        ("http://192.168.0.7:11434", False),
        ("http://localhost.evil.example:11434", False),
        ("http://127.0.0.1.evil.example:11434", False),
        ("http://[broken:11434", False),
    ],
)
def test_is_loopback(base: str, expected: bool) -> None:
    """Only addresses that cannot leave the machine are this machine."""
    assert is_loopback(base) is expected


OWN = ("127.0.0.1", "192.168.0.7", "::1", "fe80::1%eth0", "2001:db8::7", "none")


@pytest.mark.parametrize(
    ("base", "here"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.8.8.8:11434", True),
        ("http://localhost:11434", True),
        ("http://LOCALHOST:11434", True),
        ("http://[::1]:11434", True),
        ("http://[::ffff:127.0.0.1]:11434", True),
        ("http://0.0.0.0:11434", True),
        ("http://[::]:11434", True),
        ("http://192.168.0.7:11434", True),
        ("http://[fe80::1]:11434", True),
        ("http://[2001:db8::7]:11434", True),
        ("http://me:secret@192.168.0.7:11434/path", True),
        ("http://192.168.0.8:11434", False),
        ("http://[2001:db8::8]:11434", False),
        ("http://localhost.evil.example:11434", False),
        ("http://127.0.0.1.evil.example:11434", False),
        ("http://box:11434", False),
        ("http://[broken:11434", False),
        ("http://:11434", False),
        ("", False),
    ],
)
def test_is_this_machine(base: str, here: bool) -> None:
    """Loopback and the addresses of its interfaces are; names of others are not looked up."""
    assert is_this_machine(base, lambda: OWN) is here


def test_its_own_host_name_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that the machine gives itself, in any case; no name server is asked."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    assert is_this_machine("http://bOX:11434", lambda: OWN)
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert not is_this_machine("http://:11434", lambda: OWN)


HOSTS = """\
127.0.0.1 localhost
127.0.1.1\tDesk.lan desk # ours
192.168.0.7 gpu-box
192.168.0.7 both
192.168.0.8 both
192.168.0.8 other # gpu-box
0.0.0.0 blocked
::1 six
broken line
none of-them
"""


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("desk", True),
        ("DESK.LAN", True),
        ("gpu-box", True),
        ("six", True),
        ("both", False),
        ("other", False),
        ("blocked", False),
        ("of-them", False),
        ("line", False),
        ("ours", False),
        ("unknown", False),
    ],
)
def test_a_name_in_hosts_is_here_where_all_its_addresses_are(
    tmp_path: Path, host: str, here: bool
) -> None:
    """The file is read as hosts(5) says; what stands behind a # is no name."""
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    assert bool(targets(f"http://{host}:1", lambda: OWN, hosts=hosts)) is here


def test_without_a_hosts_file_no_name_is_here(tmp_path: Path) -> None:
    """And one in other bytes is read as far as it can be."""
    assert targets("http://gpu-box:1", lambda: OWN, hosts=tmp_path / "none") == ()
    (tmp_path / "hosts").write_bytes(b"\xff\xfe\n127.0.0.1 gpu-box\n")
    assert targets("http://gpu-box:1", lambda: OWN, hosts=tmp_path / "hosts")


def test_the_interfaces_of_this_machine() -> None:
    """The real list has loopback in it, and all of it is this machine."""
    addresses = interface_addresses()
    assert "127.0.0.1" in addresses
    for text in addresses:
        address = text.partition("%")[0]
        host = f"[{address}]" if ":" in address else address
        assert is_this_machine(f"http://{host}:1")


def test_what_an_address_may_mean() -> None:
    """localhost is both loopbacks, IPv6 first as getaddrinfo(3) has it."""
    loopbacks = (ip_address("::1"), ip_address("127.0.0.1"))
    assert targets("http://localhost:1") == loopbacks
    assert targets("http://192.168.0.7:1", lambda: OWN) == (ip_address("192.168.0.7"),)


@given(st.text("htps:/.[]@%0123456789abc?# é", max_size=40))
def test_any_text_is_here_or_not(text: str) -> None:
    """Nothing that an address variable may hold makes this fail."""
    for base in (text, connectable_base(text)):
        assert isinstance(is_this_machine(base, lambda: OWN), bool)
        assert isinstance(is_cloud_base(base), bool)


@pytest.mark.parametrize(
    ("base", "cloud"),
    [
        ("https://ollama.com:443", True),
        ("https://OLLAMA.com.:443/api", True),
        ("https://api.ollama.com", True),
        ("https://me:x@registry.ollama.ai", True),
        ("http://127.0.0.1:11434", False),
        ("http://notollama.com:80", False),
        ("http://ollama.com.evil.example", False),
        ("http://box/ollama.com", False),
        ("http://[broken", False),
    ],
)
def test_is_cloud_base(base: str, cloud: bool) -> None:
    """Only Ollama's own hosts are its cloud."""
    assert is_cloud_base(base) is cloud
