"""What counting one prompt tells of the next: sizes that need no counting, and a guess where nobody can count.

Nothing of a text is kept but its digest.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from aider_guard.core.traffic.asked import Asked
from aider_guard.core.traffic.kinds import Count
from aider_guard.core.traffic.parts import parts
from aider_guard.core.traffic.reading import conversation
from aider_guard.core.traffic.reserve import bound_tokens, prompt_bytes, template_tokens

FIRST_BYTES_A_TOKEN: Final = 3.5
"""Code has 3.0 to 4.2 bytes a token in the vocabularies of Qwen, Llama 3 and DeepSeek, digits fewer."""
FIRST_ERROR: Final = 60.0
LEARNED_ERROR: Final = 35.0
_BORDER_TOKENS: Final = 4
"""How many tokens more a text may have where it is counted as a piece of another."""
_MESSAGE_TOKENS: Final = 5
_TEXTS: Final = 2000
_PROMPTS: Final = 8


class Sizes:
    """The sizes of one session's texts and prompts."""

    def __init__(self) -> None:
        self._texts: OrderedDict[bytes, int] = OrderedDict()
        self._bytes_a_token: dict[str, deque[float]] = {}

    def counted(
        self, model: str, texts: Sequence[str], tokens: Sequence[int], error_percent: float
    ) -> None:
        """Single texts have so many tokens, or so many per cent more."""
        for text, count in zip(texts, tokens, strict=True):
            key = _key(model, text)
            self._texts[key] = math.ceil(count * (1 + error_percent / 100))
            self._texts.move_to_end(key)
        while len(self._texts) > _TEXTS:
            self._texts.popitem(last=False)

    def fits(self, asked: Asked, room_tokens: int) -> bool:
        """Whether a prompt certainly has no more tokens: by its bytes, or by what of it was counted before and by the
        bytes of the rest.
        """
        bound = bound_tokens(asked)
        if bound is None or bound <= room_tokens:
            return bound is not None
        return asked.raw_prompt is None and self._bound(asked) <= room_tokens

    def _bound(self, asked: Asked) -> int:
        texts = [part.text for part in parts(asked)]
        known = (self._texts.get(_key(asked.model, text)) for text in texts)
        sizes = (
            _bytes(text) if tokens is None else tokens + _BORDER_TOKENS
            for text, tokens in zip(texts, known, strict=True)
        )
        return sum(sizes) + template_tokens(len(conversation(asked)))

    def measured(self, asked: Asked, prompt_tokens: int) -> None:
        """The server evaluated so many tokens of a prompt that it saw whole."""
        size = prompt_bytes(asked)
        if size and prompt_tokens > 0:
            learned = self._bytes_a_token.setdefault(asked.model, deque(maxlen=_PROMPTS))
            learned.append(size / prompt_tokens)

    def guess(self, asked: Asked) -> Count:
        """The size of a prompt by its bytes: by the most tokens for them of the last prompts, where there were any."""
        learned = self._bytes_a_token.get(asked.model)
        bytes_a_token = min(learned) if learned else FIRST_BYTES_A_TOKEN
        messages = 0 if learned else _MESSAGE_TOKENS * len(conversation(asked))
        tokens = math.ceil(prompt_bytes(asked) / bytes_a_token) + messages
        return Count(tokens, exact=False, error_percent=LEARNED_ERROR if learned else FIRST_ERROR)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _key(model: str, text: str) -> bytes:
    digest = hashlib.blake2b(model.encode("utf-8", "replace"), digest_size=16)
    digest.update(b"\n" + text.encode("utf-8", "replace"))
    return digest.digest()
