"""Byte pair encoding, as llama.cpp does it (``llm_tokenizer_bpe_session``): how many tokens a word becomes.

tiktoken's own merging joins whatever makes a known token, in the order of the tokens; models made by others have
lists of *pairs*, and a pair that is not listed is not joined. The two differ now and then, and a count that is off
by one is not exact.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping

NEVER = 1 << 60
LONG = 200
"""Symbols from which on a heap is faster than looking for the lowest rank again and again."""


def merge(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """The symbols that are left when no pair of neighbours is listed (``left + " " + right``).

    The pair of the lowest rank is joined first, the leftmost of equal ones.
    """
    if len(symbols) >= LONG:
        return _merge_long(symbols, ranks)
    rank = [ranks.get(f"{a} {b}", NEVER) for a, b in itertools.pairwise(symbols)]
    while rank and (lowest := min(rank)) < NEVER:
        at = rank.index(lowest)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        del rank[at]
        if at:
            rank[at - 1] = ranks.get(f"{symbols[at - 1]} {symbols[at]}", NEVER)
        if at < len(rank):
            rank[at] = ranks.get(f"{symbols[at]} {symbols[at + 1]}", NEVER)
    return symbols


def _merge_long(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """The same in n log n steps, on a chain in which a joined symbol is empty."""
    after = [*range(1, len(symbols)), -1]
    before = [*range(-1, len(symbols) - 1)]
    queue: list[tuple[int, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0:
            pair = f"{symbols[left]} {symbols[right]}"
            if (rank := ranks.get(pair)) is not None:
                heapq.heappush(queue, (rank, left, right, pair))

    for left in range(len(symbols) - 1):
        offer(left, left + 1)
    while queue:
        _, left, right, pair = heapq.heappop(queue)
        if f"{symbols[left]} {symbols[right]}" != pair:
            continue  # one of them was joined since
        symbols[left] += symbols[right]
        symbols[right] = ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]
