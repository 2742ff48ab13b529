"""The door's answer to a prompt that does not fit."""

from __future__ import annotations

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import body, chat, listing, message, request_of
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.overflow import Overflow, lines, unknown_lines
from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import Part, bound_tokens, parts, prompt_bytes, reply_reserve, rows
from aider_guard.core.chat.types import Count
from aider_guard.core.readings import ContextRow, Unavailable


def prompt(
    files: dict[str, str],
    *,
    history: str = "",
    said: str = "fix it",
    map_text: str = "",
    read_only: str = "",
) -> ChatRequest:
    """One token a character makes the numbers easy."""
    messages = [message("system", "s" * 100)]
    if read_only:
        messages += [message("user", listing(prompts.READ_ONLY, {"RULES.md": read_only}))]
        messages += [message("assistant", "")]
    if map_text:
        messages += [message("user", prompts.MAP + map_text), message("assistant", "")]
    if history:
        messages += [message("user", history), message("assistant", "")]
    messages += [message("user", listing(prompts.CHAT_FILES, files)), message("assistant", "")]
    return request_of("chat", body("chat", [*messages, message("user", said)]))


def lines_for(
    chat_request: ChatRequest, window: int, *, exact: bool = True, reserve: int = 256
) -> tuple[str, str]:
    pieces = parts(chat_request)
    total = sum(len(part.text) for part in pieces)
    overflow = Overflow(Count(total, exact, 0.0 if exact else 20.0), window, reserve)
    return lines(overflow, rows(pieces, [len(part.text) for part in pieces], total), pieces)


def test_the_first_line_says_by_how_much() -> None:
    """The number is exact where the model's own tokens were counted."""
    chat_request = prompt({"big.py": "b" * 5000})
    total = sum(len(part.text) for part in parts(chat_request))
    over = total + 256 - 4000
    first, second = lines_for(chat_request, 4000)
    assert first == (
        f"not sent: exactly {over:,} tokens too large for the window of 4,000"
        f" ({total:,} and 256 for the answer)"
    )
    assert second.startswith("/drop big.py   (frees 5,")
    assert lines_for(chat_request, 4000, exact=False)[0].startswith("not sent: about ")


@pytest.mark.parametrize(
    ("chat_request", "window", "command"),
    [
        (prompt({"a.py": "a" * 900, "big.py": "b" * 3000}), 3900, "/drop big.py "),
        (prompt({"a.py": "a" * 900, "big.py": "b" * 3000}), 3000, "/drop big.py "),
        (prompt({"a.py": "a" * 900, "big.py": "b" * 3000}), 900, "/drop big.py a.py "),
        (prompt({"a.py": "a" * 900}, history="h" * 3000), 2000, "/clear "),
        (prompt({"a.py": "a" * 900, "b.py": "b" * 900}, said="fix a.py"), 1900, "/drop b.py "),
        (
            prompt({"src/a.py": "a" * 900, "b.py": "b" * 900}, said="fix a.py"),
            1900,
            "/drop b.py ",
        ),
        (prompt({"a.py": "a" * 900}, history="h" * 800, said="fix a.py"), 1600, "/clear "),
        (prompt({"a.py": "a" * 900}, read_only="r" * 900), 1900, "/drop a.py "),
        (prompt({"a.py": "a" * 2000}, history="h" * 2000), 1000, "/reset "),
        (prompt({"a.py": "a"}, map_text="m" * 3000), 2000, "the map of the repository takes 3,"),
        (prompt({"a.py": "a"}, said="x" * 3000), 2000, "a shorter message fits "),
        (prompt({"a.py": "a" * 9}), 300, "only a larger window helps: aider-guard --num-ctx 1024"),
        (prompt({'a "b" c.py': "a" * 3000}), 2000, "/reset "),
    ],
)
def test_the_second_line_is_a_command_that_suffices(
    chat_request: ChatRequest, window: int, command: str
) -> None:
    """It names the fewest files that suffice, unmentioned ones first, and never one that cannot be dropped."""
    assert lines_for(chat_request, window)[1].startswith(command)


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    st.integers(0, 3000),
    st.integers(1, 3000),
    st.integers(1000, 4000),
)
def test_a_command_that_is_named_makes_it_fit(
    sizes: list[int], history: int, said: int, window: int
) -> None:
    """After the command the same message fits."""
    files = {f"f{at}.py": "f" * size for at, size in enumerate(sizes)}
    chat_request = prompt(files, history="h" * history, said="x" * said)
    total = sum(len(part.text) for part in parts(chat_request))
    if total + 256 <= window:
        return
    second = lines_for(chat_request, window)[1]
    command = second.split("   ")[0].split()
    match command[0]:
        case "/drop":
            left = {name: text for name, text in files.items() if name not in command[1:]}
            after = prompt(left, history="h" * history, said="x" * said)
        case "/clear":
            after = prompt(files, said="x" * said)
        case "/reset":
            after = prompt({}, said="x" * said)
        case _:
            return
    assert (
        sum(len(part.text) for part in parts(after)) + 256 <= window + 2
    )  # the history is shared out by its text


def test_without_any_number_the_way_to_one_is_named() -> None:
    """Without a count the answer names the command that shows the sizes."""
    helps = "/tokens shows what takes how much; /drop FILE or /clear makes room"
    assert unknown_lines(4096) == (
        "not answered: the prompt is too large for the window of 4,096 tokens, says the server",
        helps,
    )
    assert unknown_lines(Unavailable("?")) == (
        "not answered: the prompt is too large for the window, says the server",
        helps,
    )


@pytest.mark.parametrize(
    ("window", "chat_request", "reserve"),
    [
        (8192, chat(), 1024),
        (1024, chat(), 256),
        (262144, chat(), 2048),
        (8192, chat(options={"num_predict": 77}), 77),
        (8192, chat(options={"num_predict": 100_000}), 4096),
        (300, chat(), 150),
        (
            8192,
            request_of(
                "chat",
                body(
                    "chat",
                    [message("system", prompts.COMMIT), message("user", "# Diffs:\n")],
                    stream=False,
                ),
            ),
            256,
        ),
    ],
)
def test_the_reserve_is_what_is_asked_for_or_a_share(
    window: int, chat_request: ChatRequest, reserve: int
) -> None:
    """Never more than half of the window."""
    assert reply_reserve(chat_request, window) == reserve


def test_a_bound_is_known_of_plain_chats_only() -> None:
    """Images, tools and a model's own system text have tokens beyond the text."""
    chat_request = chat(said=("é" * 100,))
    bound = bound_tokens(chat_request)
    assert bound is not None
    assert bound > prompt_bytes(chat_request) == len(prompts.DIFF.encode()) + 200
    assert bound_tokens(chat(tools=[{}])) is None
    assert bound_tokens(request_of("chat", body("chat", [message("user", "x")]))) is None


def test_what_frees_exactly_enough_is_named() -> None:
    chat_request = prompt({"a.py": "a" * 900, "big.py": "b" * 3000})
    pieces = parts(chat_request)
    sizes = [len(part.text) for part in pieces]
    big = next(row.tokens for row in rows(pieces, sizes, sum(sizes)) if row.name == "big.py")
    exact = sum(sizes) + 256 - big
    assert lines_for(chat_request, exact)[1].startswith("/drop big.py  ")
    assert lines_for(chat_request, exact - 1)[1].startswith("/drop big.py a.py ")


def test_the_map_is_named_where_it_suffices_with_all_else() -> None:
    """Neither the map nor the files are enough alone."""
    chat_request = prompt({"a.py": "a" * 700}, map_text="m" * 3000)
    total = sum(len(part.text) for part in parts(chat_request))
    words = lines_for(chat_request, total + 256 - 3500)[1]
    assert words.startswith("the map of the repository takes 3,")
    assert "--num-ctx" in words
    assert not lines_for(chat_request, 300)[1].startswith("the map")


def test_a_larger_window_is_the_next_step_that_holds_all() -> None:
    """In steps of 1024, and none more than needed."""
    total = sum(len(part.text) for part in parts(prompt({"a.py": ""}, said="")))
    for need, window in ((1024, 1024), (1025, 2048), (2048, 2048)):
        chat_request = prompt({"a.py": ""}, said="x" * (need - 10 - total))
        words = lines_for(chat_request, 11, reserve=10)[1]
        assert words.endswith(f"--num-ctx {window}")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (1500, "start with --map-tokens 0, or start llama-server"),
        (1501, "only a larger window helps: start llama-"),
    ],
)
def test_a_server_with_a_window_of_its_own_is_given_a_larger_one(over: int, words: str) -> None:
    """The guard's own setting would change nothing there."""
    found = Overflow(Count(1600, exact=True), 1800 - over, 200, "llama.cpp", "m")
    said = lines(found, TABLE, ())[1]
    assert words in said
    assert said.endswith("llama-server with --ctx-size 2048")
    assert "--num-ctx" not in said


TABLE = (
    ContextRow("system", "", 100),
    ContextRow("history", "", 500),
    ContextRow("file", "a.py", 700),
    ContextRow("map", "", 300),
)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (700, "/drop a.py   (frees 700 tokens;"),
        (701, "/reset   (drops all files and the history, 1,200 tokens;"),
        (1200, "/reset   (drops all files and the history, 1,200 tokens;"),
        (1201, "the map of the repository takes 300 tokens:"),
        (1500, "the map of the repository takes 300 tokens:"),
        (1501, "only a larger window helps:"),
    ],
)
def test_each_way_is_named_as_far_as_it_goes(over: int, words: str) -> None:
    """What makes room to the last token is enough, and one token more is not."""
    found = Overflow(Count(1600, exact=True), 1600 + 200 - over, 200)
    assert found.over_tokens == over
    assert lines(found, TABLE, ())[1].startswith(words)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (299, "a shorter message fits (this one has 300 tokens), or start with --num-ctx 2048"),
        (300, "only a larger window helps: aider-guard --num-ctx 2048"),
    ],
)
def test_a_shorter_message_is_named_where_something_of_it_would_be_left(
    over: int, words: str
) -> None:
    """Not where it would have to be empty. Its tokens are its share of the history's."""
    pieces = [Part("history", "h" * 200), Part("history", "x" * 600, current=True)]
    table = (ContextRow("system", "", 1200), ContextRow("history", "", 400))
    found = Overflow(Count(1600, exact=True), 1600 + 200 - over, 200)
    assert lines(found, table, pieces)[1] == words


@pytest.mark.parametrize(("window", "over"), [(1799, 1), (1800, 0), (1801, 0)])
def test_a_prompt_that_fits_is_over_by_nothing(window: int, over: int) -> None:
    assert Overflow(Count(1600, exact=True), window, 200).over_tokens == over
