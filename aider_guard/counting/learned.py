"""Learns from the server's answers how to count: ratios to cl100k by kind of text, and what a template adds.

What was learned is kept between sessions: numbers of tokens by model, and no text.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from aider_guard.core.chat.types import Count
from aider_guard.core.codec import WireError, build

FIRST_RATIOS: Final = {"code": 1.2, "prose": 1.1, "data": 1.6, "wide": 1.1, "strange": 1.2}
"""The ratios to begin with: low, as they only rise. SmolLM2 needs 1.2 to 1.36 times cl100k on code, 2.0 on digits."""
MESSAGE_TOKENS: Final = 5
"""The tokens that a template adds to a message, as long as nothing is known: a role and two marks."""
HIDDEN_TOKENS: Final = 60
"""The longest system prompt that a template may bring itself, in tokens."""
MAX_RATIO: Final = 8.0
FIRST_ERROR: Final = 35.0
LEAST_ERROR: Final = 3.0
_ERRORS: Final = 16
_ENOUGH_ERRORS: Final = 3
# A ratio that a text of so many tokens shows counts half: short texts say little.
_HALF_WEIGHT: Final = 60
_SAMPLES: Final = 16
# So many measurements more than unknowns must agree before what they predict is taken as exact.
_SPARE: Final = 2


@dataclass(frozen=True)
class Ratios:
    """How many tokens the model needs for one of cl100k, by kind of text; and how far the last estimates were off."""

    by_kind: dict[str, float] = field(default_factory=FIRST_RATIOS.copy)
    errors_percent: tuple[float, ...] = ()

    def estimate(self, tokens: Mapping[str, int], messages: int) -> Count:
        """Estimate the tokens of a prompt, from those of cl100k by kind."""
        total = round(self._total(tokens, messages))
        return Count(total, exact=False, error_percent=self.error_percent)

    @property
    def error_percent(self) -> float:
        """The worst of the last errors, with a margin; more as long as few are known."""
        least = LEAST_ERROR if len(self.errors_percent) >= _ENOUGH_ERRORS else FIRST_ERROR
        return round(max([least, *(1.25 * error for error in self.errors_percent)]), 1)

    def learn(self, tokens: Mapping[str, int], messages: int, true_tokens: int) -> Ratios:
        """Return the ratios after a prompt of this composition had so many tokens. They rise, and never fall."""
        before = self._total(tokens, messages)
        off = 100 * abs(true_tokens - before) / max(1, true_tokens)
        errors = (*self.errors_percent, round(off, 2))[-_ERRORS:]
        length = sum(tokens.values())
        if not length:
            return replace(self, errors_percent=errors)
        missing = max(0.0, true_tokens - before)
        squares = sum(count * count for count in tokens.values())
        step = missing / squares * length / (length + _HALF_WEIGHT)
        raised = {kind: self._ratio(kind) + step * count for kind, count in tokens.items()}
        limited = {kind: min(MAX_RATIO, ratio) for kind, ratio in raised.items()}
        return Ratios({**self.by_kind, **limited}, errors)

    def _total(self, tokens: Mapping[str, int], messages: int) -> float:
        content = sum(count * self._ratio(kind) for kind, count in tokens.items())
        return content + MESSAGE_TOKENS * messages

    def _ratio(self, kind: str) -> float:
        return self.by_kind.get(kind, FIRST_RATIOS["strange"])


@dataclass(frozen=True)
class Sample:
    """One prompt: how many messages of each role it had, and how many tokens more than was counted."""

    roles: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Overhead:
    """What an unknown template adds to the counted messages: some tokens for each by its role, and some once."""

    samples: tuple[Sample, ...] = ()

    def learn(self, roles: tuple[int, ...], tokens: int) -> Overhead:
        """Return the same with one more measurement."""
        return Overhead((*self.samples, Sample(roles, tokens))[-_SAMPLES:])

    @property
    def nothing(self) -> bool:
        """Whether nothing was ever added."""
        return all(sample.tokens == 0 for sample in self.samples)

    def exactly(self, roles: tuple[int, ...]) -> int | None:
        """Return what is added to such messages, if the measurements show it; else None.

        It is shown by two measurements of the very same roles. Of others it is shown when every sample agrees with
        one sum by role, these roles are a combination of theirs, and more of them were measured than it takes to
        know the sum.
        """
        rows = [[Fraction(value) for value in (1, *s.roles, s.tokens)] for s in self.samples]
        if any(len(row) != len(roles) + 2 for row in rows):
            return None
        solved = _eliminated(rows)
        if any(not any(row[:-1]) and row[-1] for row in solved):
            return None  # they contradict each other
        same = [sample.tokens for sample in self.samples if sample.roles == roles]
        if len(same) >= _SPARE:
            return same.pop()
        solved = [row for row in solved if any(row)]
        if len({sample.roles for sample in self.samples}) < len(solved) + _SPARE:
            return None
        rest = _reduced([Fraction(value) for value in (1, *roles, 0)], solved)
        tokens = -rest[-1]
        return int(tokens) if not any(rest[:-1]) and tokens.denominator == 1 else None

    def about(self, roles: tuple[int, ...]) -> tuple[int, int]:
        """Estimate what is added; return it, and by how many tokens it may be off.

        It goes on from the last measurement, by what the last two that differ say of a message.
        """
        messages = sum(roles)
        if not self.samples:
            return MESSAGE_TOKENS * messages, 2 * MESSAGE_TOKENS * messages + HIDDEN_TOKENS
        points = [(sum(sample.roles), sample.tokens) for sample in self.samples]
        at, tokens = points[-1]
        others = [point for point in points if point[0] != at]
        each = (tokens - others[-1][1]) / (at - others[-1][0]) if others else MESSAGE_TOKENS
        spread = max(abs(tokens + each * (x - at) - y) for x, y in points[-4:])
        off = 2 + spread + (0 if others else 2 * MESSAGE_TOKENS * abs(messages - at))
        return round(tokens + each * (messages - at)), math.ceil(off)


def _eliminated(rows: Sequence[list[Fraction]]) -> list[list[Fraction]]:
    """Return rows in echelon form, each leading with 1; rows that say nothing are zero."""
    done: list[list[Fraction]] = []
    for row in rows:
        left = _reduced(row, done)
        lead = next(filter(None, left[:-1]), None)
        done.append([value / lead for value in left] if lead else left)
    return done


def _reduced(row: list[Fraction], by: Sequence[list[Fraction]]) -> list[Fraction]:
    for other in by:
        lead = next((index for index, value in enumerate(other[:-1]) if value), None)
        if lead is not None and row[lead]:
            row = [a - row[lead] * b for a, b in zip(row, other, strict=True)]
    return row


@dataclass(frozen=True)
class Learned:
    """All that is remembered of one model.

    ``template`` marks the template that ``overhead`` was learned with; ``thinks`` is whether Ollama lets the model
    think where a request does not say.
    """

    ratios: Ratios = Ratios()
    overhead: Overhead = Overhead()
    template: str = ""
    thinks: bool | None = None


FILE: Final = "tokens.json"
_MAX_MODELS: Final = 40
_MAX_BYTES: Final = 1 << 20


def read_learned(folder: str) -> dict[str, Learned]:
    """Read what is kept, by canonical name; entries that are garbage are left out."""
    if not folder:
        return {}
    try:
        content = (Path(folder) / FILE).read_bytes()
        kept = json.loads(content) if len(content) < _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    models: dict[str, Learned] = {}
    for name, entry in kept.items() if isinstance(kept, dict) else ():
        with suppress(WireError):
            learned: Learned = build(Learned, entry)
            ratios, errors = learned.ratios.by_kind.values(), learned.ratios.errors_percent
            is_sane = all(0.1 <= ratio <= MAX_RATIO for ratio in ratios)
            if is_sane and all(0 <= error <= 1000 for error in errors):
                models[name] = learned
    return models


def keep_learned(folder: str, name: str, learned: Learned) -> None:
    """Keep what was learned of one model, where it can be written."""
    if not folder:
        return
    models = read_learned(folder)
    models.pop(name, None)  # the last one learned stands last, and the first is forgotten
    models[name] = learned
    entries = {key: asdict(value) for key, value in [*models.items()][-_MAX_MODELS:]}
    file = Path(folder) / FILE
    # Two sessions may write at once: each writes a file of its own, and the last one wins as a whole.
    draft = file.with_name(f"{FILE}.{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(entries), encoding="utf-8")
        draft.replace(file)
    with suppress(OSError):
        draft.unlink()
