"""Texts of attempts, places that may be allowed, and the words for hosts and causes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core import egress, egress_messages
from aider_guard.core.egress import (
    Allowed,
    Attempt,
    Place,
    SocketPath,
    parse_allowed,
    parse_place,
)
from aider_guard.core.events import (
    MOST_CHARACTERS,
    EgressAllowed,
    EgressBlocked,
)


@given(st.text(), st.integers(0, 65535), st.text(), st.integers(1, 99))
def test_an_attempts_texts_are_made_printable_and_short(
    host: str, port: int, program: str, count: int
) -> None:
    """A name can carry data out by a lookup, or control characters."""
    event = EgressBlocked.of(Attempt(host, port, "dns", program, count))
    assert isinstance(event, EgressBlocked)
    for text in (event.host, event.program):
        assert text.isprintable()
        assert len(text) <= MOST_CHARACTERS
    assert (event.port, event.count) == (port, count)
    if host.isprintable() and len(host) <= MOST_CHARACTERS:
        assert event.host == host


def test_an_attempt_is_one_where_no_number_is_told() -> None:
    """The name of the program may be unknown, too."""
    assert EgressBlocked.of(Attempt("a.b", 443, "tcp")) == EgressBlocked("a.b", 443, "tcp", "", 1)
    passed = EgressBlocked.of(Attempt("/run/x", 0, "unix", "y", 2, is_allowed=True))
    assert passed == EgressAllowed("/run/x", 0, 2)


@pytest.mark.parametrize(
    ("host", "port", "program", "needed"),
    [
        *(
            ("example.org", port, "git", port in (22, 443, 9418))
            for port in (21, 22, 23, 443, 9417, 9418, 9419)
        ),
        ("github.com", 443, "pip", True),
        ("example.org", 443, "pip", False),
        ("127.0.0.1", 5432, "psql", True),
    ],
)
def test_which_places_work_needs(host: str, port: int, program: str, *, needed: bool) -> None:
    """Git's ports for git and for where code is kept, and whatever runs on this machine."""
    assert egress_messages.may_be_needed(host, port, program) == needed


def test_a_long_name_is_cut_and_what_moves_the_cursor_is_replaced() -> None:
    """The event itself does that, in every constructor."""
    event = EgressBlocked("\x1b[2J" + 300 * "a", 0, "unix", "a\nb")
    assert event.host == "\ufffd[2J" + 249 * "a"
    assert event.program == "a\ufffdb"


PLACES: list[tuple[str, Place]] = [
    ("github.com:22", Place("github.com", 22)),
    (" GitHub.com.:22 ", Place("github.com", 22)),
    ("127.0.0.1:5432", Place("127.0.0.1", 5432)),
    ("[::1]:80", Place("::1", 80)),
    ("[2001:DB8:0::1]:65535", Place("2001:db8::1", 65535)),
    ("my_host:1", Place("my_host", 1)),
]


@pytest.mark.parametrize(("text", "place"), PLACES, ids=[text for text, _ in PLACES])
def test_a_place_is_a_host_and_one_port(text: str, place: Place) -> None:
    """Names are in small letters, addresses in their shortest form; the text of a place parses to the same."""
    assert parse_place(text) == place == parse_place(str(place))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("github.com:22", Place("github.com", 22)),
        (" /run//docker.sock ", SocketPath("/run/docker.sock")),
        ("/run/a b.sock", SocketPath("/run/a b.sock")),
    ],
)
def test_what_is_allowed_is_a_place_or_a_socket(text: str, expected: Allowed) -> None:
    """A complete path is a socket's."""
    assert parse_allowed(text) == expected == parse_allowed(str(expected))


@pytest.mark.parametrize("text", ["/run/*.sock", "/run/", "/a/../b", "/run/\x1b", "run/x.sock"])
def test_there_are_no_patterns(text: str) -> None:
    """Nor folders, nor paths that are not complete."""
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_allowed(text)


def read_place(text: str) -> Place | None:
    try:
        return parse_place(text)
    except ValueError:
        return None


NO_PLACES = [
    *("", ":", "github.com", "github.com:", ":22", "github.com:0", "github.com:65536", "a:000443"),
    *(
        "github.com:ssh",
        "github.com:22-80",
        "github.com:²",
        "a:-1",
        "a:0000065536",
        "*:22",
        "*.b:22",
    ),
    *(
        "a b:22",
        "-a:22",
        "a-:22",
        "a..b:22",
        "1.2.3:22",
        "1.2.3.256:22",
        "::1:80",
        "[::1]",
        "[a]:1",
    ),
    *("https://github.com:443", "a/b:22", "[fe80::1%eth0]:22", f"{'a' * 254}:1", "user@a:22"),
]


@pytest.mark.parametrize("text", NO_PLACES)
def test_anything_else_is_no_place(text: str) -> None:
    """No patterns, no ranges, no addresses of pages."""
    assert read_place(text) is None


@given(st.ip_addresses().map(str), st.integers(1, 65535))
def test_every_address_is_a_place(address: str, port: int) -> None:
    """Addresses of both families are places."""
    place = Place(address, port)
    assert parse_place(str(place)) == place


@given(st.text())
def test_any_text_is_a_place_or_a_value_error(text: str) -> None:
    """The text of a parsed place parses again."""
    place = read_place(text)
    assert place is None or parse_place(str(place)) == place


def test_hosts_below_a_known_one_are_known() -> None:
    """A host that only ends in the same letters is not known."""
    assert egress_messages.what_is("eu.i.posthog.com", "") == "Aider's analytics"
    assert egress_messages.what_is("notposthog.com", "") == ""
    assert egress_messages.what_is("com", "") == egress_messages.what_is("", "") == ""


def test_the_table_says_what_a_host_is_and_not_what_it_is_used_for() -> None:
    """The purpose for Aider is named only for programs that may be Aider."""
    for host, what in egress_messages.ASKED_BY_AIDER.items():
        for program in ("aider", "", "python3"):
            assert egress_messages.what_is(host, program) == what
        assert egress_messages.what_is(host, "curl") == ""


def test_no_name_of_the_table_is_written_so_that_it_is_never_found() -> None:
    """Names are in small letters, without a dot at the end."""
    for table in (
        egress_messages.ASKED_BY_AIDER,
        egress_messages.SERVICES,
        egress_messages.CODE_HOSTS,
    ):
        for host in table:
            assert parse_place(f"{host}:1").host == host


# Why there is no better layer


SETTINGS = [
    ({"user/max_user_namespaces": "0\n"}, "max-user-namespaces"),
    ({"kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "apparmor"),
    ({"kernel/unprivileged_userns_clone": "0"}, "userns-clone"),
    (
        {"user/max_user_namespaces": "0", "kernel/unprivileged_userns_clone": "0"},
        "max-user-namespaces",
    ),
    ({"user/max_user_namespaces": "63000"}, "no luck"),
    ({}, "no luck"),
]


@pytest.mark.parametrize(("settings", "cause"), SETTINGS, ids=range(len(SETTINGS)))
def test_the_systems_own_settings_tell_the_cause(settings: dict[str, str], cause: str) -> None:
    """A missing file is no cause."""

    def read(name: str) -> str:
        return settings.get(name, "")

    assert egress.cause_of(egress.NAMESPACES, read, "no luck") == cause


def test_every_switch_has_a_cause_with_the_command_that_turns_it() -> None:
    """The command names the very setting that was read."""
    for name, forbids, cause in (*egress.NAMESPACES, *egress.FILTER):
        setting = name.replace("/", ".")
        known = egress.CAUSES[cause]
        assert setting in known.words
        assert known.fix.startswith(f"sudo sysctl {setting}=")
        assert not known.fix.endswith(f"={forbids}")


def test_causes_are_put_into_words() -> None:
    """Several causes and free words are joined; the fix is the first known one."""
    because = "no idea; apparmor; pidfd"
    words = egress.in_words(because)
    assert words.startswith("no idea; AppArmor keeps user namespaces")
    assert egress.fix(because) == "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    assert egress.in_words("") == egress.fix("") == egress.fix("no idea") == ""
