"""Takes out of a text what a report must not show: keys, passwords, addresses, and the names of users and machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

SECRET, HOST, USER = "SECRET", "HOST", "USER"

# The part of a variable's, a flag's or a setting's name that tells that its value is a secret.
_SENSITIVE = r"[\w.-]*(?:key|token|secret|passw(?:or)?d|passphrase|credentials?|cookie|auth)"
_NAMED = re.compile(
    rf"({_SENSITIVE}[\"']?(?:\s*[=:]\s*|\s+(?=\S+=)))(?!/)(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)
_FLAG = re.compile(
    rf"(--{_SENSITIVE}[ =])(?!on the command line)(\"[^\"]*\"|'[^']*'|\S+)", re.IGNORECASE
)
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)
# The keys of OpenAI and others, GitHub, Hugging Face, Google and AWS, by the marks with which they begin.
_KEY = re.compile(
    r"\b(?:sk-|gsk_|pk-|gh[opsur]_|github_pat_|hf_|AIza|AKIA|xox[a-z]-)[A-Za-z0-9_-]{8,}"
)
_URL = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)(\S*@)?(\[[^\]\s]*\]|[^/\s:?#'\"),;]*)([^\s'\"),;?#]*)([?#]\S*)?"
)
_LOGIN = re.compile(r"(\b[A-Z_]+=)?[^\s/@'\"(]+@(?=[\w\[])")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\.\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.IGNORECASE)
_HOME = re.compile(r"(?:/home|/Users|/mnt/\w/Users|\w:\\Users)[/\\][^/\\\s:'\",;()]+")
_PUBLIC = ("localhost", "ollama.com", "aider.chat", "github.com", "huggingface.co")
# Values that people give a key that is not needed, and names of accounts: each is a word of the report's own, too.
_WORDS = frozenset(
    (
        "ollama",
        "aider",
        "local",
        "none",
        "null",
        "true",
        "false",
        "dummy",
        "empty",
        "root",
        "user",
        "main",
    )
)
_SHORTEST_SECRET = 4


@dataclass(frozen=True)
class PrivateWords:
    """What belongs to one user and machine: the home folder, the user's name, names of machines, and secrets."""

    home: str = ""
    user: str = ""
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the variables whose names are those of keys, tokens and passwords."""
    return tuple(
        value
        for name, value in environment.items()
        if re.fullmatch(rf"{_SENSITIVE}s?(?:_\w+)?", name, re.IGNORECASE) and value[:1] != "/"
    )


def redact(text: str, private: PrivateWords) -> str:
    """The text with ``SECRET``, ``HOST``, ``USER`` and ``~`` in place of what is private.

    What looks like a secret is one, wherever it stands: a report that says too little can be asked about.
    """
    for secret in sorted(_telling(private.secrets), key=len, reverse=True):
        text = text.replace(secret, SECRET)
    text = _URL.sub(_url, text)
    for pattern in (_FLAG, _NAMED):
        text = pattern.sub(rf"\1{SECRET}", text)
    text = _AUTHORIZATION.sub(rf"\1 {SECRET}", text)
    text = _KEY.sub(SECRET, text)
    text = _LOGIN.sub(rf"\1{USER}@", text)
    for pattern in (_IPV4, _IPV6):
        text = pattern.sub(lambda found: _address(found[0]), text)
    if len(private.home) > 1:
        text = text.replace(private.home.rstrip("/"), "~")
    text = _HOME.sub("~", text)
    for host in _telling(host for host in private.hosts if _host(host) == HOST):
        text = _word(host).sub(HOST, text)
    for user in _telling((private.user,)):
        text = _word(user).sub(USER, text)
    return text


def _telling(words: Iterable[str]) -> list[str]:
    """Those long enough to be told apart, which are no words of the report's own."""
    return [
        word
        for word in words
        if len(word) >= _SHORTEST_SECRET - 1 and word.lower() not in (*_WORDS, *_PUBLIC)
    ]


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE)


def _url(found: re.Match[str]) -> str:
    """An address without user, password and query, and with this machine's name or a public one only."""
    scheme, _, host, rest, query = found.groups()
    return f"{scheme}{_host(host)}{rest}{'?…' if query else ''}"


def _host(host: str) -> str:
    bare = host.strip("[]")
    is_number = re.fullmatch(r"[\d.]+|[0-9a-fA-F:]+", bare)
    if is_number and _address(bare) == bare:
        return host
    return host if not bare or bare in (*_PUBLIC, HOST) else HOST


def _address(text: str) -> str:
    """An IP address of this machine as it is, any other as ``HOST``; what is none is left."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return text if address.is_loopback or address.is_unspecified else HOST
