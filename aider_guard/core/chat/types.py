"""The words of the traffic: roles, purposes, counts, verdicts, and the settings a door serves with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from aider_guard.core.readings import Unavailable

RoleName = Literal["main", "editor", "weak"]
Purpose = Literal["chat", "edit", "commit", "summary", "other"]
"""What Aider wants of the model: ``edit`` is an architect's editor, ``commit`` a commit message, ``summary`` a
summary of the history, ``other`` what is not recognised as any of Aider's."""
CONVERSATION: Final = ("chat", "edit")
"""The purposes of a message of the user's; the others are what Aider asks for by itself."""
Stage = Literal["", "messages", "tokens", "generation"]
"""What was cut: whole messages were dropped, tokens of the prompt were cut, or either was pushed out while the
answer was written."""


@dataclass(frozen=True)
class Count:
    """How many tokens a text or a prompt has. ``exact`` counts come from the model's own vocabulary and template.

    Of an estimate the true number is, with few exceptions, at most ``error_percent`` above or below.
    """

    tokens: int
    exact: bool
    error_percent: float = 0.0

    @property
    def at_most(self) -> int:
        """The highest number of tokens that the count stands for."""
        return self.tokens if self.exact else int(self.tokens * (1 + self.error_percent / 100)) + 1

    @property
    def at_least(self) -> int:
        """The lowest number of tokens that the count stands for."""
        return self.tokens if self.exact else int(self.tokens * (1 - self.error_percent / 100))


@dataclass(frozen=True)
class Verdict:
    """Whether the model saw the whole prompt, and what speaks for that.

    ``cut_tokens`` is how many tokens it did not see; Unavailable where something was cut and nobody can say how much.
    """

    outcome: Literal["whole", "cut", "unknown"]
    evidence: str
    stage: Stage = ""
    cut_tokens: int | Unavailable = 0


@dataclass(frozen=True)
class Upstream:
    """A server that the door leads to. ``path`` is the part of the door's address after the token, "" for Ollama
    itself (then requests come as ``/TOKEN/api/chat``), else one segment (``/TOKEN/PATH/chat/completions``).
    """

    path: str
    base: str = field(metadata={"journal": False})
    kind: Literal["ollama", "openai"]


@dataclass(frozen=True)
class RunnerOption:
    """An option that a model's process is started with (``num_gpu``): with another value it is loaded again."""

    name: str
    value: int | bool


@dataclass(frozen=True)
class DoorRole:
    """A model that Aider was started with, as its server knows it."""

    role: RoleName
    model: str
    path: str = ""
    """The upstream's."""
    window_tokens: int = 0
    """What a server that is not Ollama said its window is; 0 for Ollama's models, and when it did not say."""
    runner_options: tuple[RunnerOption, ...] = ()
    """Those that the user's own settings give, but for the window."""


@dataclass(frozen=True)
class WindowNeed:
    """What the session's models need in memory with a window of this size, as computed before the first prompt."""

    window_tokens: int
    needed_bytes: int


@dataclass(frozen=True)
class DoorSettings:
    """What a door serves with."""

    token: str = field(metadata={"journal": False})
    upstreams: tuple[Upstream, ...]
    roles: tuple[DoorRole, ...]
    window_tokens: int
    """The pin of every model of Ollama's."""
    user_keep_alive: bool = False
    """Whether the user's own settings say how long a model stays loaded; then the door does not."""
    on_overflow: Literal["refuse", "warn"] = "refuse"
    refuse_cloud: bool = True
    smaller_windows: tuple[WindowNeed, ...] = ()
    """Windows below the pin and what they need, largest first; for advice when memory does not suffice."""
    tokenizers: str = ""
    """The folder of Aider's encodings, "" when it is not known."""
    learned_dir: str = ""
    """Where ratios of tokens are remembered from session to session, "" for nowhere."""
    ollama_log: str = ""
    """A file with Ollama's log that the user named."""
