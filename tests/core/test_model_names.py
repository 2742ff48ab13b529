"""The names of Ollama's models: one form for all spellings, and whether two names mean one model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.model_names import (
    ModelName,
    canonical_name,
    full_name,
    is_cloud_name,
    is_valid_name,
    parse_name,
    same_model,
    without_local,
)


def test_the_parts_of_a_name() -> None:
    """Missing parts are Ollama's defaults; the case stays."""
    assert parse_name("Qwen3") == ModelName("registry.ollama.ai", "library", "Qwen3", "latest")
    assert parse_name("https://localhost:5000/Me/own:8B") == ModelName(
        "localhost:5000", "Me", "own", "8B"
    )


SAME = [
    ("qwen3:8b", "qwen3:8b", True),
    ("qwen3", "qwen3:latest", True),
    ("Qwen3:Latest", "qwen3", True),
    ("QWEN3:8B", "qwen3:8b", True),
    ("library/qwen3:8b", "qwen3:8b", True),
    ("registry.ollama.ai/library/qwen3", "qwen3", True),
    ("https://registry.ollama.ai/library/qwen3", "library/qwen3", True),
    ("registry.ollama.ai/me/own", "me/own", True),
    ("qwen3:8b:local", "qwen3:8b", True),
    ("qwen3:LOCAL", "library/qwen3", True),
    ("qwen3", "qwen3:8b", False),
    ("me/qwen3", "qwen3", False),
    ("hf.co/library/qwen3", "qwen3", False),
    ("localhost:5000/me/own", "me/own", False),
    ("", "", False),
    ("", "latest", False),
]


@pytest.mark.parametrize(("left", "right", "same"), SAME)
def test_names_of_one_model(left: str, right: str, same: bool) -> None:
    """Ollama's defaults may be left out or written, and the case does not count."""
    assert same_model(left, right) is same
    assert same_model(right, left) is same


@given(st.text("aB3:/.- ", max_size=20))
def test_any_text_has_one_form(text: str) -> None:
    """The canonical form of a canonical form is itself, and the same model."""
    canonical = canonical_name(text)
    assert canonical_name(canonical) == canonical
    assert same_model(text, canonical) is bool(text)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("qwen3", "qwen3:latest"),
        ("Qwen3:8B", "qwen3:8b"),
        ("library/qwen3", "qwen3:latest"),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("registry.ollama.ai/me/own", "me/own:latest"),
        ("hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/repo-gguf:q4_k_m"),
        ("hf.co/user/repo", "hf.co/user/repo:latest"),
        ("localhost:5000/me/own", "localhost:5000/me/own:latest"),
        ("https://registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("http://localhost:5000/me/own", "localhost:5000/me/own:latest"),
        ("hf.co/library/own", "hf.co/library/own:latest"),
        ("library/me/own", "library/me/own:latest"),
        ("a/b/c/own", "a/b/c/own:latest"),
        ("qwen3:8b:local", "qwen3:8b:local"),
    ],
)
def test_canonical_name(name: str, canonical: str) -> None:
    """Every spelling of a name becomes one, once."""
    assert canonical_name(name) == canonical
    assert canonical_name(canonical) == canonical


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("qwen3", "qwen3:latest"),
        (" Qwen3:8B ", "Qwen3:8B"),
        ("Registry.ollama.ai/Library/Qwen3", "Qwen3:latest"),
        ("hf.co/user/Repo-GGUF:Q4_K_M", "hf.co/user/Repo-GGUF:Q4_K_M"),
        ("Library/me/own", "Library/me/own:latest"),
    ],
)
def test_full_name(name: str, full: str) -> None:
    """A name as it is listed keeps its case."""
    assert full_name(name) == full


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kimi-k2:cloud", True),
        ("gpt-oss:120b-cloud", True),
        ("GPT-OSS:120B-CLOUD", True),
        ("hf.co/a/b:x-cloud", True),
        ("gpt-oss:20b", False),
        ("cloud", False),
        ("my-cloud", False),
        ("my-cloud:8b", False),
        ("qwen3:cloudy", False),
        ("localhost:5000/my-cloud", False),
        ("gpt-oss: cloud", True),
        ("gpt-oss:\tcloud", True),
        ("gpt-oss:\ncloud", True),
        ("gpt-oss:\u00a0cloud", True),
        ("gpt-oss:\u3000120b-Cloud\u2028", True),
        ("\x85gpt-oss:cloud\x85", True),
        ("gpt-oss :cloud", True),
        ("a:cloud:cloud", True),
        ("a:-cloud", True),
        ("a: b -cloud", True),
        ("a:x/b-cloud", False),
        ("a:cloud:local", False),
        ("a:cloud\x1c", False),  # Python's strip would take it for space, Go's does not
        ("a:\x1fcloud", False),
        ("a:\u200bcloud", False),
        ("a:clo ud", False),
        ("a:\uff43loud", False),
    ],
)
def test_is_cloud_name(name: str, expected: bool) -> None:
    """Only the tag tells a cloud model."""
    assert is_cloud_name(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", True),
        (" qwen3:8b\n", True),
        ("qwen3:8b: local", True),
        ("gpt-oss: cloud", True),
        ("hf.co/user/Repo-GGUF:Q4_K_M", True),
        ("http://localhost:5000/me/own:8B", True),
        ("http:///me/own", True),
        ("_a:_b", True),
        ("m" * 80, True),
        ("h" * 350 + "/n/m", True),
        ("", False),
        (" ", False),
        ("qwen3: 8b", False),
        ("qwen3 :local", False),
        ("qwen3:8b:16k", False),
        ("qwen3:", False),
        (":8b", False),
        ("/own", False),
        ("a//b", False),
        ("a/b/c/d", False),
        ("my.own/m", False),
        ("a://b://h/n/m", False),
        ("-m", False),
        ("m" * 81, False),
        ("h" * 351 + "/n/m", False),
        ("qwen\u00e9", False),
        ("qwen3\x1b[31m", False),
        ("a:cloud:local", False),
        ("a:local:local", False),
        ("a:cloud\x1c", False),
    ],
)
def test_is_valid_name(name: str, expected: bool) -> None:
    """Ollama's own rule for the parts of a name, and at most one place after it."""
    assert is_valid_name(name) is expected


def test_a_local_place_is_read_with_space_around_it() -> None:
    """As Ollama reads it; other names only lose the space around them."""
    assert without_local("\u00a0qwen3:8b: LOCAL\t") == "qwen3:8b"
    assert without_local(" qwen3:8b ") == "qwen3:8b"
    assert same_model("qwen3:\tlocal", "qwen3")


# Ollama's rule read anew, letter by letter, as its Go code does it (internal/modelref/modelref.go, ParseRef;
# types/model/name.go, ParseName and isValidPart; unicode.IsSpace).

_GO_SPACE = {9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
_GO_SPACE |= set(range(0x2000, 0x200B))
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"


def _trimmed(text: str) -> str:
    while text and ord(text[0]) in _GO_SPACE:
        text = text[1:]
    while text and ord(text[-1]) in _GO_SPACE:
        text = text[:-1]
    return text


def _source(raw: str) -> tuple[str, str]:
    at = raw.rfind(":")
    if at < 0:
        return raw, ""
    suffix = _trimmed(raw[at + 1 :])
    if suffix.lower() in ("cloud", "local"):
        return raw[:at], suffix.lower()
    if "/" not in suffix and suffix.lower().endswith("-cloud"):
        return raw[: at + 1] + suffix[:-6], "cloud"
    return raw, ""


def _cut(text: str, separator: str) -> tuple[str, str, bool]:
    at = text.rfind(separator)
    if at < 0:
        return text, "", False
    return text[:at] or "!MISSING!", text[at + 1 :] or "!MISSING!", True


def _is_part(part: str, others: str, longest: int) -> bool:
    return (
        1 <= len(part) <= longest
        and part[0] in _LETTERS
        and all(letter in _LETTERS + others for letter in part)
    )


def _ollama_accepts(name: str) -> bool:
    base, source = _source(_trimmed(name))
    if source and _source(base)[1]:
        return False
    host, namespace, tag = "registry.ollama.ai", "library", "latest"
    rest = base
    if rest.rfind(":") > rest.rfind("/"):
        rest, tag, _ = _cut(rest, ":")
    rest, model, is_more = _cut(rest, "/")
    if not is_more:
        model, rest = rest, ""
    else:
        before, namespace, is_more = _cut(rest, "/")
        if not is_more:
            namespace = rest
        else:
            scheme, colon, behind = before.partition("://")
            host = (behind if colon else scheme) or host
    return (
        _is_part(host, "-.:", 350)
        and _is_part(namespace, "-", 80)
        and _is_part(model, "-.", 80)
        and _is_part(tag or "latest", "-.", 80)
    )


_PIECES = [
    *(
        "a",
        "B3",
        "gpt-oss",
        ":",
        ":",
        ":",
        "/",
        "://",
        "-",
        ".",
        "_",
        "cloud",
        "Cloud",
        "-cloud",
        "local",
    ),
    *(
        " ",
        "\t",
        "\n",
        "\v",
        "\x1c",
        "\x1f",
        "\x85",
        "\xa0",
        "\u1680",
        "\u180e",
        "\u2003",
        "\u200b",
        "\u2028",
    ),
    *(
        "\u3000",
        "\ufeff",
        "\x00",
        "\u00e9",
        "K\u212a",
        "20b",
        "120b-CLOUD",
        ":cloud",
        ": cloud",
        "latest",
    ),
]


def test_a_hundred_thousand_names_are_read_as_ollama_reads_them() -> None:
    """Whether a name is one of the cloud, and whether Ollama accepts it."""
    chance = random.Random(12)
    seen = set()
    for _ in range(100_000):
        name = "".join(chance.choices(_PIECES, k=chance.randint(1, 7)))
        is_cloud, is_valid = _source(_trimmed(name))[1] == "cloud", _ollama_accepts(name)
        assert (is_cloud_name(name), is_valid_name(name)) == (is_cloud, is_valid), repr(name)
        seen.add((is_cloud, is_valid, name != name.strip()))
    assert len(seen) == 8
