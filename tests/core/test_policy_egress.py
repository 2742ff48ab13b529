"""The notices on attempts to leave: their words for each layer, how often they come, and the last line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
from core.histories_of_events import Step, Story, Wait, actions_of, at_first_prompt, histories
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core import egress_messages
from aider_guard.core.actions import Notice, SetDeadline, ShowNotice
from aider_guard.core.egress import ENFORCED, Layer, Protocol
from aider_guard.core.events import (
    AiderExited,
    AirGapChosen,
    EgressAllowed,
    EgressBlocked,
    LaunchForbidden,
    PromptClosed,
    PromptShown,
)
from aider_guard.core.findings import Finding
from aider_guard.core.state import State

PRICES = EgressBlocked("raw.githubusercontent.com", 443, "tcp", "aider")


def blocked(
    host: str, port: int = 443, protocol: Protocol = "tcp", program: str = "", count: int = 1
) -> EgressBlocked:
    return EgressBlocked(host, port, protocol, program, count)


def busy(layer: Layer = "netns", because: str = "") -> Story:
    """Aider works on a message, in the air gap."""
    story = at_first_prompt()
    story.tell(AirGapChosen(layer, because), PromptClosed())
    return story


def shown(actions: Sequence[Any]) -> list[tuple[str, ...]]:
    return [one.notice.lines for one in actions if isinstance(one, ShowNotice)]


def lines_after(*events: EgressBlocked, layer: Layer = "netns") -> list[tuple[str, ...]]:
    """The lines of the notice at the next prompt after these events."""
    story = busy(layer)
    assert not shown(story.tell(*events))
    return shown(story.tell(PromptShown()))


ONE: list[tuple[EgressBlocked, tuple[str, ...]]] = [
    (PRICES, ("blocked raw.githubusercontent.com:443: Aider's model price list",)),
    (blocked("us.i.posthog.com"), ("blocked us.i.posthog.com:443: Aider's analytics",)),
    (blocked("eu.posthog.com"), ("blocked eu.posthog.com:443: Aider's analytics",)),
    (
        blocked("RAW.githubusercontent.com.", program="curl"),
        ("blocked raw.githubusercontent.com:443: tried by curl",),
    ),
    (
        blocked("us.i.posthog.com", program="python3.11"),
        ("blocked us.i.posthog.com:443: Aider's analytics, tried by python3.11",),
    ),
    (blocked("api.openai.com"), ("blocked api.openai.com:443: OpenAI's models",)),
    (
        blocked("api.openai.com", program="node"),
        ("blocked api.openai.com:443: OpenAI's models, tried by node",),
    ),
    (
        blocked("bedrock-runtime.eu-west-1.amazonaws.com", program="aider"),
        ("blocked bedrock-runtime.eu-west-1.amazonaws.com:443: Amazon's models",),
    ),
    (
        blocked("mine.openai.azure.com", program="aider"),
        ("blocked mine.openai.azure.com:443: Azure's models",),
    ),
    (
        blocked("192.0.2.10", 9999, "udp", "nc"),
        ("blocked 192.0.2.10:9999: tried by nc",),
    ),
    (
        blocked("2001:db8::10", 80, "tcp"),
        ("blocked [2001:db8::10]:80: tried by a program that Aider started",),
    ),
    (
        blocked("192.0.2.10", 0, "other", "ping"),
        ("blocked 192.0.2.10: tried by ping",),
    ),
    (
        blocked("a.example.org", 53, "dns", "dig"),
        ("blocked a lookup of a.example.org: tried by dig",),
    ),
    (
        blocked("127.0.0.1", 5432, program="psql"),
        (
            "blocked 127.0.0.1:5432: a service of this machine, tried by psql",
            "aider-guard --allow 127.0.0.1:5432 lets it through",
        ),
    ),
    (
        blocked("::1", 6379),
        (
            "blocked [::1]:6379: a service of this machine",
            "aider-guard --allow [::1]:6379 lets it through",
        ),
    ),
    (
        blocked("github.com", 22, program="ssh"),
        (
            "blocked github.com:22: GitHub, tried by ssh",
            "aider-guard --allow github.com:22 lets it through",
        ),
    ),
    (
        blocked("git.example.org", 443, program="git-remote-https"),
        (
            "blocked git.example.org:443: tried by git-remote-https",
            "aider-guard --allow git.example.org:443 lets it through",
        ),
    ),
    (
        blocked("git.example.org", 8080, program="git"),
        ("blocked git.example.org:8080: tried by git",),
    ),
    (
        blocked("/var/run/docker.sock", 0, "unix", "docker"),
        (
            "blocked /var/run/docker.sock: the container daemon's socket, tried by docker",
            "aider-guard --allow /var/run/docker.sock lets it through",
        ),
    ),
    (
        blocked("/run/systemd/resolve/io.systemd.Resolve", 0, "unix"),
        (
            "blocked /run/systemd/resolve/io.systemd.Resolve: the resolver's socket",
            "aider-guard --allow /run/systemd/resolve/io.systemd.Resolve lets it through",
        ),
    ),
    (
        blocked("/srv/x y.sock", 0, "unix"),
        (
            "blocked /srv/x y.sock: tried by a program that Aider started",
            "aider-guard --allow '/srv/x y.sock' lets it through",
        ),
    ),
    (
        blocked("@/tmp/dbus-x", 0, "unix", "a.out"),
        ("blocked @/tmp/dbus-x: D-Bus, which starts programs outside, tried by a.out",),
    ),
    (
        blocked("", 0, "other", "gradle"),
        ("blocked an address that could not be read: tried by gradle",),
    ),
    (blocked("", 53, "dns", "dig"), ("blocked a lookup of .: tried by dig",)),
]


@pytest.mark.parametrize(("event", "lines"), ONE, ids=lambda part: getattr(part, "host", ""))
def test_the_first_attempt_is_a_notice_at_the_next_prompt(
    event: EgressBlocked, lines: tuple[str, ...]
) -> None:
    """It names the place, or the program that tried, and for a place that may be needed the flag that allows it."""
    assert lines_after(event) == [lines]


@pytest.mark.parametrize("layer", ENFORCED)
def test_what_the_kernel_enforces_is_called_blocked(layer: Layer) -> None:
    """Both enforced layers have the same words."""
    assert lines_after(PRICES, layer=layer) == [
        ("blocked raw.githubusercontent.com:443: Aider's model price list",)
    ]


ASKED = [
    (PRICES, "asked to stay away from raw.githubusercontent.com:443: Aider's model price list"),
    (
        blocked("a.example.org", 53, "dns"),
        "asked not to look up a.example.org: tried by a program that Aider started",
    ),
    (
        blocked("@/run/nscd/socket", 0, "unix"),
        "asked to stay away from @/run/nscd/socket: the resolver's socket",
    ),
]


@pytest.mark.parametrize(("event", "line"), ASKED, ids=lambda part: getattr(part, "host", ""))
def test_a_layer_that_only_asks_says_so(event: EgressBlocked, line: str) -> None:
    """With this layer no attempt is called blocked."""
    assert lines_after(event, layer="asked") == [(line,)]


def test_in_an_open_network_nothing_is_said() -> None:
    """There is no notice, as the user chose that."""
    assert lines_after(PRICES, layer="open") == []


def test_a_destination_is_said_once() -> None:
    """Another port of the same host is another destination; another program or protocol is not."""
    story = busy()
    story.tell(PRICES, PromptShown())
    again = story.tell(PromptClosed(), PRICES, blocked(PRICES.host, protocol="udp"), PromptShown())
    assert shown(again) == []
    assert len(shown(story.tell(PromptClosed(), blocked(PRICES.host, 80), PromptShown()))) == 1


def test_a_lookup_that_is_followed_by_a_connection_is_not_said() -> None:
    """The lookup belongs to the connection, in any order and any case of letters."""
    lookup = blocked("RAW.githubusercontent.com", 53, "dns")
    for events in ((lookup, PRICES), (PRICES, lookup)):
        (lines,) = lines_after(*events)
        assert lines == ("blocked raw.githubusercontent.com:443: Aider's model price list",)


def test_several_at_once_are_two_lines() -> None:
    """The first is explained, the others are named."""
    others = [blocked(f"{letter}.example.org") for letter in "abc"]
    assert lines_after(PRICES, *others) == [
        (
            "blocked raw.githubusercontent.com:443: Aider's model price list",
            "and 3 others: a.example.org:443, b.example.org:443, c.example.org:443",
        )
    ]


def test_of_very_many_some_are_named() -> None:
    """Four names, and how many more."""
    ((_, second),) = lines_after(*(blocked(f"{number}.example.org") for number in range(12)))
    assert second.startswith("and 11 others: 1.example.org:443, ")
    assert second.endswith(", 4.example.org:443 and 7 more")


def test_what_can_be_let_through_is_said_first() -> None:
    """The user may want to allow it."""
    ((first, second),) = lines_after(PRICES, blocked("127.0.0.1", 5432, program="psql"))
    assert first.startswith("blocked 127.0.0.1:5432: ")
    assert second == (
        "and 1 other: raw.githubusercontent.com:443;"
        " aider-guard --allow 127.0.0.1:5432 lets it through"
    )


def test_several_that_can_be_let_through_are_one_command() -> None:
    """One line to copy has all the flags."""
    ((_, second),) = lines_after(blocked("localhost", 5432), blocked("github.com", 22))
    assert second.endswith(
        "; aider-guard --allow localhost:5432 --allow github.com:22 lets them through"
    )


def test_three_flags_are_enough_for_one_command() -> None:
    """A longer line would be cut."""
    ((_, second),) = lines_after(*(blocked("localhost", port) for port in (1, 2, 3, 4)))
    flags = " ".join(f"--allow localhost:{port}" for port in (1, 2, 3))
    assert second.endswith(f"; aider-guard {flags} lets them through")


def test_five_notices_and_then_where_the_rest_is() -> None:
    """The sixth notice says that it is the last."""
    story = busy()
    lines = []
    for number in range(9):
        lines += shown(story.tell(PromptClosed(), blocked(f"{number}.example.org"), PromptShown()))
    assert [len(each) for each in lines] == [1] * 6
    assert all(each[0].startswith("blocked ") for each in lines[:5])
    assert "journal" in lines[5][0]


def test_at_an_open_prompt_a_bunch_is_gathered_for_a_second() -> None:
    """A lookup and its connection are one notice; repetitions do not delay it."""
    story = at_first_prompt()
    story.tell(AirGapChosen("netns"))
    first = story.tell(blocked("a.example.org", 53, "dns"), Wait(0.4), blocked("a.example.org"))
    assert shown(first) == []
    actions = story.tell(Wait(0.4), blocked("a.example.org"), Wait(0.3))
    assert shown(actions) == [("blocked a.example.org:443: tried by a program that Aider started",)]
    assert (
        len(actions_of(story.steps, SetDeadline))
        - len(actions_of(at_first_prompt().steps, SetDeadline))
        == 1
    )
    assert shown(story.tell(PromptClosed(), PromptShown(), Wait(5.0))) == []


def test_what_was_gathered_waits_for_a_prompt() -> None:
    """If the prompt is gone after that second, the notice comes at the next one."""
    story = at_first_prompt()
    story.tell(AirGapChosen("netns"), PRICES)
    assert shown(story.tell(PromptClosed(), Wait(2.0))) == []
    assert len(shown(story.tell(PromptShown()))) == 1


@given(histories())
def test_notices_about_attempts_stay_few(steps: list[Step]) -> None:
    """At most five and the last one, in two lines each, and "blocked" only where the kernel blocks."""
    notices = [
        (one.notice, step.before.egress)
        for step in steps
        for one in step.actions
        if isinstance(one, ShowNotice) and one.notice.name.startswith("egress")
    ]
    assert len(notices) <= 6
    for notice, ledger in notices:
        assert len(notice.lines) <= 2
        assert ledger.layer != "open"
        if not ledger.is_enforced:
            assert not any("blocked" in line for line in notice.lines)


# The end


def end(*events: Any, layer: Layer = "netns", **how: bool) -> tuple[str, ...] | None:
    """The last lines after these events."""
    story = busy(layer)
    story.tell(*events)
    notice = egress_messages.end_line(story.state, **how)
    return notice.lines if isinstance(notice, Notice) else None


def test_the_measured_start_of_aider_is_one_line() -> None:
    """Hosts with how often, the most tried first; lookups of the same hosts are not counted again."""
    events = [
        blocked("raw.githubusercontent.com", 53, "dns", count=10),
        blocked("index.example.org", count=1),
        blocked("raw.githubusercontent.com", count=1),
        blocked("us.i.posthog.com", count=12),
        blocked("raw.githubusercontent.com", count=4),
    ]
    assert end(*events) == (
        (
            "blocked by the kernel: 18 attempts to 3 hosts (us.i.posthog.com:443 12 times,"
            " raw.githubusercontent.com:443 5 times, index.example.org:443 once)"
        ),
    )


CLOUD = blocked("api.openai.com", 443, "http", count=2)

ENDS: list[tuple[list[EgressBlocked], str]] = [
    ([], "nothing tried to leave"),
    ([blocked("a.b")], "blocked by the kernel: 1 attempt to 1 host (a.b:443 once)"),
    ([EgressBlocked("a.b", 80, "tcp")], "blocked by the kernel: 1 attempt to 1 host (a.b:80 once)"),
    (
        [blocked("", 0, "other")],
        "blocked by the kernel: 1 attempt to 1 host (an address that could not be read once)",
    ),
    (
        [blocked("a.b"), blocked("a.b", 80)],
        "blocked by the kernel: 2 attempts to 1 host (a.b:443 once, a.b:80 once)",
    ),
    (
        [blocked("a.b", 53, "dns", count=3)],
        "blocked by the kernel: 3 attempts to 1 host (a lookup of a.b 3 times)",
    ),
    (
        [blocked("/run/docker.sock", 0, "unix", count=1000)],
        "blocked by the kernel: 1,000 attempts to 1 socket (/run/docker.sock 1,000 times)",
    ),
    (
        [blocked("a.b"), blocked("/run/docker.sock", 0, "unix")],
        "blocked by the kernel: 2 attempts to 1 host and 1 socket (a.b:443 once, /run/docker.sock once)",
    ),
    (
        [CLOUD],
        "refused by the door: 2 requests to 1 host (api.openai.com:443 2 times)",
    ),
    (
        [blocked(f"{number}.b") for number in range(6)],
        (
            "blocked by the kernel: 6 attempts to 6 hosts"
            " (0.b:443 once, 1.b:443 once, 2.b:443 once, 3.b:443 once and 2 more)"
        ),
    ),
]


@pytest.mark.parametrize(("events", "line"), ENDS, ids=range(len(ENDS)))
def test_the_last_line(events: list[EgressBlocked], line: str) -> None:
    """It counts the attempts and names their destinations, or says that there were none."""
    assert end(*events) == (line,)


def test_what_the_door_answered_is_not_called_blocked_by_the_kernel() -> None:
    """The door refused it before anything reached the air gap; a connection to the same host is another matter."""
    assert end(blocked("api.openai.com"), CLOUD) == (
        "blocked by the kernel: 1 attempt to 1 host (api.openai.com:443 once)",
        "refused by the door: 2 requests to 1 host (api.openai.com:443 2 times)",
    )
    assert end(CLOUD, EgressAllowed("c", 1)) == (
        "refused by the door: 2 requests to 1 host (api.openai.com:443 2 times)",
        "let through: c:1 once",
    )


def test_a_request_that_the_door_refused_is_named_so_at_the_prompt() -> None:
    """In every layer: the door refuses where nothing is blocked, too."""
    layers: tuple[Layer, ...] = ("netns", "asked")
    for layer in layers:
        assert lines_after(CLOUD, layer=layer) == [
            ("the door refused a request to api.openai.com:443: OpenAI's models",)
        ]
    assert lines_after(CLOUD, blocked("us.i.posthog.com")) == [
        (
            "blocked us.i.posthog.com:443: Aider's analytics",
            "and 1 other: api.openai.com:443 (refused by the door)",
        )
    ]


def test_a_count_below_zero_counts_for_nothing() -> None:
    """Neither of what was blocked nor of what was let through."""
    events = [blocked("a.b", count=count) for count in (2, -5)]
    allowed = [EgressAllowed("c", 1, count) for count in (2, -5)]
    assert end(*events, *allowed) == (
        "blocked by the kernel: 2 attempts to 1 host (a.b:443 2 times)",
        "let through: c:1 2 times",
    )


@pytest.mark.parametrize(("size", "shown_characters"), [(253, 253), (254, 253)])
def test_a_name_has_253_characters_at_most(size: int, shown_characters: int) -> None:
    """As those of hosts have, and each can be shown."""
    event = EgressBlocked("\x1b" * size, 443, "tcp", "\x07" * size)
    assert event.host == event.program == "\ufffd" * shown_characters


def test_what_was_let_through_stands_beside_it() -> None:
    """If there were no other attempts, it says "nothing else"."""
    github = EgressAllowed("github.com", 22)
    assert end(github, github, EgressAllowed("127.0.0.1", 5432)) == (
        "nothing else tried to leave",
        "let through: github.com:22 2 times, 127.0.0.1:5432 once",
    )
    assert end(github, blocked("a.b")) == (
        "blocked by the kernel: 1 attempt to 1 host (a.b:443 once)",
        "let through: github.com:22 once",
    )


def test_the_end_of_a_layer_that_asks_says_what_it_does_not_prove() -> None:
    """It says so with attempts and without."""
    unseen = "what a program sends past proxies is not seen, and not held back"
    assert end(layer="asked") == (
        "asked to behave, not blocked: no attempt to leave was seen",
        unseen,
    )
    assert end(blocked("a.b", count=2), EgressAllowed("c", 1), layer="asked") == (
        "asked to behave, not blocked: 2 attempts to 1 host (a.b:443 2 times)",
        "let through: c:1 once",
        unseen,
    )


def test_some_ends_say_nothing() -> None:
    """An open network, a refused launch, and on request a run without attempts have no last line."""
    assert end(blocked("a.b"), layer="open") is None
    assert egress_messages.end_line(State()) is None
    assert end(even_nothing=False) is None
    assert end(blocked("a.b"), even_nothing=False) is not None
    assert end(EgressAllowed("c", 1), even_nothing=False) is not None
    refused = LaunchForbidden((Finding("a", "stop", "what"),))
    story = Story()
    story.tell(AirGapChosen("netns"), refused)
    assert egress_messages.end_line(story.state) is None
    story.tell(blocked("a.b"))
    assert egress_messages.end_line(story.state) is not None


def test_what_comes_while_the_session_ends_is_counted() -> None:
    """There is no notice any more, but the last line has it."""
    story = busy()
    story.tell(AiderExited(0))
    assert story.tell(blocked("a.b"), EgressAllowed("c", 1)) == []
    notice = egress_messages.end_line(story.state)
    assert notice is not None
    assert len(notice.lines) == 2


NAMES = st.sampled_from(["a.b", "A.B.", "c.d", "/run/x"])
BLOCKED = st.builds(
    EgressBlocked,
    NAMES,
    st.sampled_from([80, 443]),
    st.sampled_from(list(get_args(Protocol))),
    st.sampled_from(["", "curl"]),
    st.integers(1, 1000),
)


@given(st.lists(BLOCKED, max_size=20))
def test_no_attempt_is_lost(events: list[EgressBlocked]) -> None:
    """The sums have all reported attempts, without lookups of names that were connected to."""
    story = busy()
    story.tell(*events)
    connected = {
        event.host.lower().rstrip(".")
        for event in events
        if event.protocol in ("tcp", "udp", "other")
    }
    kernel = sum(
        event.count
        for event in events
        if event.protocol not in ("dns", "http")
        or (event.protocol == "dns" and event.host.lower().rstrip(".") not in connected)
    )
    door = sum(event.count for event in events if event.protocol == "http")
    notice = egress_messages.end_line(story.state)
    assert notice is not None
    expected = [f"blocked by the kernel: {kernel:,} attempt"] if kernel else []
    expected += [f"refused by the door: {door:,} request"] if door else []
    lines = zip(notice.lines, expected or ["nothing tried to leave"], strict=True)
    assert all(line.startswith(words) for line, words in lines)


def test_names_without_end_cost_no_memory() -> None:
    """Random names are counted, but only 256 are kept."""
    story = busy()
    story.tell(*(blocked(f"{number}.b", 53, "dns") for number in range(356)))
    assert len(story.state.egress.tried) == len(story.state.egress.unreported) == 256
    notice = egress_messages.end_line(story.state)
    assert notice is not None
    assert ": 356 attempts to 256 hosts and others (" in notice.lines[0]
