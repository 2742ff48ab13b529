"""Estimates how long a model takes to read a prompt, from how long it took before and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from aider_guard.core.chat.events import ReadingEstimated
from aider_guard.core.readings import Unavailable

KNOWN_BY = Literal["slots", "pace"]
"""Whether the model's own process said how far it has come, or only the pace of earlier prompts is known."""
NO_PACE: Final = Unavailable("this model has read no prompt on this machine yet")
_FEWEST_TOKENS: Final = 64
"""A shorter piece says little: what each request takes anyway is most of its time."""
PIECE_TOKENS: Final = 512
"""llama.cpp reads so many at once (``n_ubatch``): on a card a few take nearly as long."""
_TELLING_SECONDS: Final = 2.0
"""After so long what each request takes anyway, and a piece that is not full, are a small part."""
EVEN_TOKENS: Final = 12_000.0
"""For a model whose shape is not known: that of 7 billion weights, about."""
_UNLIKE: Final = 0.05
"""How much samples must differ in kind (the square of a sine) to tell the two costs apart."""
_KEPT: Final = 12
_NEWER_COUNTS: Final = 1.2
"""By how much more a sample counts than the one before it: the machine may have more to do than yesterday."""


@dataclass(frozen=True)
class ReadingSample:
    """How long a model took to read ``tokens`` of a prompt that began with ``start_tokens`` which it knew already."""

    start_tokens: int
    tokens: int
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether anything can be learned from it; a file of earlier sessions may hold anything."""
        return self.start_tokens >= 0 and self.tokens >= _FEWEST_TOKENS and self.seconds > 0

    @property
    def is_telling(self) -> bool:
        """Whether it tells of long prompts: one that was read ahead but for a few words does not."""
        return self.tokens >= PIECE_TOKENS or self.seconds >= _TELLING_SECONDS

    @property
    def costs(self) -> tuple[float, float]:
        """The tokens, and the pairs of tokens that attention compares, both in units of a token."""
        return _costs(self.start_tokens, self.tokens)


def _costs(start_tokens: int, tokens: int) -> tuple[float, float]:
    # Each token is compared with all before it: of n tokens behind s these are n * (s + n / 2).
    return float(tokens), tokens * (start_tokens + tokens / 2)


@dataclass(frozen=True)
class ReadingPace:
    """How fast one model reads on this machine. The newest samples stand last.

    ``even_tokens`` is behind how many tokens attention takes as long as the model's weights: what its shape tells, for
    as long as its samples do not.
    """

    samples: tuple[ReadingSample, ...] = ()
    even_tokens: float = EVEN_TOKENS

    def with_sample(self, sample: ReadingSample) -> ReadingPace:
        """Return the pace after one more prompt; the same where it says nothing.

        Samples that tell little count for as long as there is no other.
        """
        if not sample.is_sound:
            return self
        samples = (*self.samples, sample)
        telling = tuple(one for one in samples if one.is_telling)
        return replace(self, samples=(telling or samples)[-_KEPT:])

    def seconds(self, start_tokens: int, tokens: int) -> float | Unavailable:
        """Return how long so many tokens take behind so many that are known."""
        weights = self._weights()
        return _weighted(weights, start_tokens, tokens) if weights else NO_PACE

    def share(self, start_tokens: int, tokens: int) -> float:
        """Return how long these take beside others, also where no sample says how long that is."""
        return _weighted(self._weights() or (1.0, 1 / self.even_tokens), start_tokens, tokens)

    def _weights(self) -> tuple[float, float] | None:
        """Return the seconds for a token and for a pair, by least squares of the relative errors.

        Samples that are too much alike, or that contradict each other, tell only how fast the model is as a whole.
        """
        rows = [
            (_NEWER_COUNTS**at, *(cost / sample.seconds for cost in sample.costs))
            for at, sample in enumerate(self.samples)
        ]
        if not rows:
            return None
        aa = sum(w * a * a for w, a, _ in rows)
        ab = sum(w * a * b for w, a, b in rows)
        bb = sum(w * b * b for w, _, b in rows)
        a1, b1 = sum(w * a for w, a, _ in rows), sum(w * b for w, _, b in rows)
        determinant = aa * bb - ab * ab
        if determinant > _UNLIKE * aa * bb:
            token, pair = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
            if token >= 0 and pair >= 0:
                return token, pair
        whole = [(w, a + b / self.even_tokens) for w, a, b in rows]
        speed = sum(w * cost for w, cost in whole) / sum(w * cost * cost for w, cost in whole)
        return speed, speed / self.even_tokens


def _weighted(weights: tuple[float, float], start_tokens: int, tokens: int) -> float:
    return sum(w * cost for w, cost in zip(weights, _costs(start_tokens, tokens), strict=True))


@dataclass(frozen=True)
class ReadingPosition:
    """How far a prompt is read: of ``prompt_tokens`` in all, ``cached_tokens`` were known and ``read_tokens`` are read.

    ``at_seconds`` is when the newest of these were read, from the beginning of the reading on: they are read in pieces
    of hundreds, and nothing is told in between.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    read_tokens: int = 0
    at_seconds: float = 0.0

    @property
    def unread_tokens(self) -> int:
        """What is still to be read when the newest piece was."""
        return max(0, self.prompt_tokens - self.cached_tokens - self.read_tokens)


def seconds_left(
    pace: ReadingPace, position: ReadingPosition, elapsed_seconds: float
) -> float | Unavailable:
    """Return how long the rest of a prompt will take, ``elapsed_seconds`` after its reading began.

    What was read of it already says how fast the machine is now; the pace says how later tokens differ from earlier.
    """
    known, read = position.cached_tokens, position.read_tokens
    rest = pace.seconds(known + read, position.unread_tokens)
    if read > 0 and position.at_seconds > 0:
        before, after = pace.share(known, read), pace.share(known + read, position.unread_tokens)
        rest = position.at_seconds * after / before
    if isinstance(rest, Unavailable):
        return rest
    return max(0.0, rest - max(0.0, elapsed_seconds - position.at_seconds))


def progress_words(position: ReadingPosition, left_seconds: float) -> str:
    """Return what is shown when a long prompt begins to be read: how much, from where, how long."""
    unread = position.prompt_tokens - position.cached_tokens
    cached = f" ({position.cached_tokens:,} more are known)" if position.cached_tokens else ""
    return f"the model reads {unread:,} tokens{cached}: {about(left_seconds)}"


def still_words(percent: float, left_seconds: float) -> str:
    """Return what is shown while it goes on."""
    return f"{percent:.0f} % read, {about(left_seconds)}"


def title_words(estimate: ReadingEstimated) -> str:
    """Return the terminal's title while a prompt is read."""
    return f"aider: reading, {still_words(estimate.percent, estimate.seconds_left)} left"


def about(seconds: float) -> str:
    """Return a time in words that claim no more than is known: ``about 40 s``, ``about 3 min``."""
    if seconds >= 120:
        return f"about {seconds / 60:.0f} min"
    step = 5 if seconds >= 20 else 1
    return f"about {max(1, round(seconds / step) * step)} s"


# The paces of all models, as they are kept from session to session: numbers only.

_MOST_MODELS: Final = 40


@dataclass(frozen=True)
class ReadingPaces:
    """The paces by model, the one that was learned last standing last."""

    models: Mapping[str, ReadingPace] = field(default_factory=dict)

    def of(self, name: str) -> ReadingPace:
        """Return what is known of a model."""
        return self.models.get(name, ReadingPace())

    def learned(self, name: str, sample: ReadingSample) -> ReadingPaces:
        """Return the paces after one more prompt of this model."""
        others = [(key, pace) for key, pace in self.models.items() if key != name]
        newest = (name, self.of(name).with_sample(sample))
        return ReadingPaces(dict([*others, newest][-_MOST_MODELS:]))

    def plain(self) -> dict[str, list[list[float]]]:
        """Return them as they are written to a file."""
        return {
            name: [[one.start_tokens, one.tokens, round(one.seconds, 4)] for one in pace.samples]
            for name, pace in self.models.items()
        }

    @classmethod
    def of_plain(cls, kept: object) -> ReadingPaces:
        """Return what a file holds; entries that are garbage are left out."""
        paces: dict[str, ReadingPace] = {}
        for name, rows in kept.items() if isinstance(kept, dict) else ():
            pace = ReadingPace()
            for row in rows if isinstance(rows, list) else ():
                pace = pace if (sample := _sample(row)) is None else pace.with_sample(sample)
            if isinstance(name, str) and pace.samples:
                paces[name] = pace
        return cls(paces)


def _sample(row: object) -> ReadingSample | None:
    match row:
        case [int(start), int(tokens), int() | float() as seconds]:
            sample = ReadingSample(start, tokens, float(seconds))
            is_sane = start < 1 << 31 and tokens < 1 << 31 and seconds < 1e6
            return sample if is_sane and not _has_bool(row) else None
    return None


def _has_bool(row: Sequence[object]) -> bool:
    return any(isinstance(value, bool) for value in row)
