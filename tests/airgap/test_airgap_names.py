"""Names in the air gap: one address each, and answers that any resolver understands."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.airgap.dns import NameTable, answer, search_domains

LABELS = st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


def question(name: str, kind: int = 1, *, flags: int = 0x0100, identifier: int = 7) -> bytes:
    """A query as RFC 1035, 4.1, has it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return (
        struct.pack("!HHHHHH", identifier, flags, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!HH", kind, 1)
    )


@given(st.lists(HOSTS, max_size=20))
def test_each_name_has_its_own_address(hosts: list[str]) -> None:
    """The same name the same, another name another, and back again; case and a last dot are nothing."""
    names = NameTable()
    found = {host: names.address_of(host) for host in hosts}
    assert len(set(found.values())) == len(found)
    for host, address in found.items():
        assert address is not None
        assert address.startswith("127.77.")
        assert names.address_of(f"{host.upper()}.") == address
        assert names.name_of(address) == host
        assert host in names


@given(HOSTS)
def test_an_address_is_answered(host: str) -> None:
    """For IPv4: the identifier and the question come back, and one record with the name's address."""
    names = NameTable()
    result = answer(question(host), names)
    assert result is not None
    assert result.name == host
    identifier, flags, questions, records, *_ = struct.unpack_from("!HHHHHH", result.reply)
    assert (identifier, flags & 0x800F, questions, records) == (7, 0x8000, 1, 1)
    assert ".".join(map(str, result.reply[-4:])) == names.address_of(host)
    again = answer(question(host), names)
    assert again is not None
    assert again.reply[-4:] == result.reply[-4:]


@pytest.mark.parametrize("kind", [28, 15, 16, 65, 255])
def test_other_records_do_not_exist(kind: int) -> None:
    """But the name does: a program that also asks for IPv4 gets an address."""
    result = answer(question("host.example", kind), NameTable())
    assert result is not None
    assert struct.unpack_from("!HHHHHH", result.reply)[1:4] == (0x8180, 1, 0)


@pytest.mark.parametrize("host", ["build7.corp.lan", "Build7", "localhost"])
def test_this_machine_is_itself(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loopback's name, and by its own with its domain and without; unless a place is allowed by that name."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    for name in {"localhost", host.lower(), host.lower().partition(".")[0]}:
        result = answer(question(name), NameTable())
        assert result is not None
        assert result.reply[-4:] == bytes([127, 0, 0, 1])
        allowed = answer(question(name), NameTable([name]))
        assert allowed is not None
        assert allowed.reply[-4:] == bytes([127, 77, 0, 1])


def test_a_name_that_is_absent_does_not_exist() -> None:
    """And gets no address."""
    names = NameTable()
    result = answer(question("nas.corp.lan"), names, lambda name: name == "nas.corp.lan")
    assert result is not None
    assert result.reply[3] & 15 == 3
    assert "nas.corp.lan" not in names


@pytest.mark.parametrize(
    ("text", "environment", "host", "domains"),
    [
        ("nameserver 10.0.0.1\nsearch corp.lan Lab.Corp.lan.\n", {}, "box", {"corp.lan", "lab.corp.lan"}),
        ("# search x\ndomain corp.lan\noptions ndots:5\n\n", {}, "box", {"corp.lan"}),
        ("search .", {"LOCALDOMAIN": "a.lan b.lan"}, "box.c.lan", {"a.lan", "b.lan", "c.lan"}),
        (None, {}, "box", set()),
    ],
)  # fmt: skip
def test_where_short_names_are_looked_for(
    text: str | None,
    environment: dict[str, str],
    host: str,
    domains: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the file, by the environment, and by this machine's own name."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    assert search_domains(environment, tmp_path / "resolv.conf") == domains


@given(st.binary(max_size=80))
def test_garbage_is_no_question(data: bytes) -> None:
    """Or one, by chance; never an error, and never an answer to an answer."""
    result = answer(data, NameTable())
    assert result is None or result.reply[2] & 0x80
    assert answer(data[:2] + b"\x80" + data[3:], NameTable()) is None


def test_when_addresses_run_out() -> None:
    """Further names do not exist, and known ones stay."""
    names = NameTable(f"host{number}" for number in range(0xFFFE))
    assert names.address_of("one-more") is None
    result = answer(question("one-more"), names)
    assert result is not None
    assert result.reply[3] & 15 == 3
    assert names.address_of("host0") == "127.77.0.1"
