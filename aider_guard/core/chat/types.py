"""Values that describe requests to models: roles, purposes, counts, verdicts, and the settings of the door."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from aider_guard.core.readings import Unavailable

RoleName = Literal["main", "editor", "weak"]
Purpose = Literal["chat", "edit", "commit", "summary", "other"]
"""What a request is for: ``edit`` is of an architect's editor, ``commit`` for a commit message, ``summary`` for a
summary of the history, ``other`` for anything that is not recognised as one of Aider's."""
OLLAMAS_OPENAI_PATH: Final = "v1"
"""The path of roles that Ollama answers by OpenAI's protocol (``DoorRole.path``)."""
CONVERSATION: Final = ("chat", "edit")
"""The purposes of a message of the user's; the others are what Aider asks for by itself."""
Stage = Literal["", "messages", "tokens", "generation"]
"""How a prompt was cut: whole messages were dropped, its tokens were cut, or they were pushed out of the window while
the answer was written."""


CountedBy = Literal["", "server", "rendered", "vocabulary", "estimate", "bytes", "refusal"]
"""How a prompt was counted.

``server``: Ollama made its text, and the process of its model counted that. ``rendered``: Ollama made the text, which
was counted here with the model's vocabulary. ``vocabulary``: both were made here, by the model's template and
vocabulary. ``estimate``: by another encoding and a ratio. ``bytes``: by its size in bytes. ``refusal``: by the server,
when it refused it. "" where it was not counted.
"""


@dataclass(frozen=True)
class Count:
    """The number of tokens in a text or a prompt. ``exact`` counts come from the model's own vocabulary and template.

    With few exceptions the true number is at most ``error_percent`` above or below an estimate.
    """

    tokens: int
    exact: bool
    error_percent: float = 0.0
    counted_by: CountedBy = field(default="", compare=False)
    is_partial: bool = False
    """Whether the server's template leaves out some of the prompt's messages: the count is of what is left."""
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The tokens themselves, where the server told them."""

    @property
    def at_most(self) -> int:
        """The highest number of tokens that there may be."""
        return self.tokens if self.exact else int(self.tokens * (1 + self.error_percent / 100)) + 1

    @property
    def at_least(self) -> int:
        """The lowest number of tokens that there may be."""
        return self.tokens if self.exact else int(self.tokens * (1 - self.error_percent / 100))


@dataclass(frozen=True)
class Verdict:
    """Whether the model saw the whole prompt, and the evidence for that.

    ``cut_tokens`` is how many tokens it did not see; Unavailable where the prompt was cut by an unknown amount.
    """

    outcome: Literal["whole", "cut", "unknown"]
    evidence: str
    stage: Stage = ""
    cut_tokens: int | Unavailable = 0


@dataclass(frozen=True)
class Upstream:
    """A server that the door forwards requests to.

    ``path`` is the part of the door's address after the token: "" for Ollama itself (requests come as
    ``/TOKEN/api/chat``), else one segment (``/TOKEN/PATH/chat/completions``).
    """

    path: str
    base: str = field(metadata={"journal": False})
    kind: Literal["ollama", "openai"]
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False, metadata={"journal": False}
    )
    """What the guard's own questions carry: the key and headers that Aider sends there."""


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
    """The upstream's; ``v1`` for Ollama's own interface with OpenAI's protocol, where no window can be pinned."""
    window_tokens: int = 0
    """The window that a server other than Ollama reported; 0 for Ollama's models, and when it did not report one."""
    runner_options: tuple[RunnerOption, ...] = ()
    """The options in the user's own settings, but for the window."""


@dataclass(frozen=True)
class WindowNeed:
    """The memory that the session's models need with a window of this size, as computed before the first prompt."""

    window_tokens: int
    needed_bytes: int


@dataclass(frozen=True)
class DoorSettings:
    """The settings that the door serves with."""

    token: str = field(metadata={"journal": False})
    upstreams: tuple[Upstream, ...]
    roles: tuple[DoorRole, ...]
    window_tokens: int
    """The window that is pinned for every model of Ollama's."""
    user_keep_alive: bool = False
    """Whether the user's own settings decide how long a model stays loaded; then the door does not."""
    on_overflow: Literal["refuse", "warn"] = "refuse"
    refuse_cloud: bool = True
    read_ahead: Literal["auto", "on", "off"] = "auto"
    """Whether the next prompt is evaluated while the user types."""
    think_for_side_work: bool = False
    """Whether a model that can think may do so for commit messages and summaries."""
    shows_progress: bool = False
    """Whether the user is told how far a long prompt is read."""
    smaller_windows: tuple[WindowNeed, ...] = ()
    """Windows below the pin and what they need, largest first; for advice when memory does not suffice."""
    tokenizers: str = ""
    """The folder of Aider's encodings, "" when unknown."""
    learned_dir: str = ""
    """The folder that keeps ratios of tokens from session to session, "" for none."""
    ollama_log: str = ""
    """The file with Ollama's log that the user named, "" for none."""
