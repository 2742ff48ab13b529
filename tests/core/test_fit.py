"""Whether models fit: alone and together, on one card and several, and the largest window that does."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from core.fit_models import (
    GEMMA_3,
    GIB,
    LITE,
    MIB,
    QWEN_4B,
    QWEN_8B,
    QWEN_14B,
    QWEN_30B_A3B,
    QWEN_32B,
    SMOL,
    candidate,
    card,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from aider_guard.core.fit import (
    MARGIN_BYTES,
    Card,
    Load,
    SwapCost,
    cards_taken,
    choose_window,
    distinct,
    fit,
    fits_alone,
    fits_together,
    hand_overs,
    longest_window,
    need,
    packs,
    rooms,
    spilled_bytes,
    split,
    stay_together,
    with_batch,
)
from aider_guard.core.model_memory import Candidate, Runtime, ollamas_guess_bytes
from aider_guard.core.readings import Unavailable

NEW = Runtime()
OLD = Runtime(engine="B")
A3B = candidate(replace(QWEN_30B_A3B, trained_tokens=40_960), 17.34, "qwen3:30b-a3b")
EIGHT = candidate(replace(QWEN_8B, trained_tokens=40_960), 4.87, "qwen3:8b")
FOUR = candidate(replace(QWEN_4B, trained_tokens=40_960), 2.44, "qwen3:4b")


def test_30b_a3b_at_four_bits_does_not_fit_16_gib() -> None:
    """However few of its experts work at a time: all weights must be in memory, and no window is small enough."""
    answer = fit([A3B], [card(16)], None, NEW)

    assert not answer.fits
    assert not answer.alone
    assert (answer.largest_together, answer.largest_alone) == (0, 0)
    assert choose_window([A3B], [card(16)], NEW) is None
    assert answer.num_ctx == 4096


def test_architect_and_editor_swap_on_24_gib() -> None:
    """The example of 30b-a3b with 8b at 32,768 tokens: each fits alone, both need about 31.7 GiB and a margin."""
    answer = fit([A3B, EIGHT], [card(24)], 32_768, NEW)
    total = sum(one.total_bytes for one in answer.needs) / GIB

    assert answer.alone
    assert not answer.fits
    assert total == pytest.approx(31.7, abs=0.5)
    assert choose_window([A3B, EIGHT], [card(24)], NEW) == answer.largest_alone > 32_768


def test_the_margin_is_kept_free_on_every_card_from_0_30_on() -> None:
    """llama.cpp leaves 1 GiB of each card; older versions fill it."""
    needed = need(FOUR, 8192, OLD).total_bytes
    full = Card("card", needed, needed)
    newly = need(FOUR, 8192, NEW).total_bytes

    assert fits_together([FOUR], [full], 8192, OLD)
    assert not fits_together([FOUR], [replace(full, free_bytes=needed - 1)], 8192, OLD)
    assert fits_together([FOUR], [Card("c", GIB, newly + GIB)], 8192, NEW)
    assert not fits_together([FOUR], [Card("c", GIB, newly + GIB - 1)], 8192, NEW)
    assert rooms([Card("c", GIB, GIB - 1), Card("c", GIB, GIB + 1)], NEW) == (0, 1)


def test_what_others_hold_does_not_count_as_free() -> None:
    """A card of 24 GiB with 12 in use is as good as one of 12."""
    assert choose_window([EIGHT], [card(24, 12)], NEW) == choose_window([EIGHT], [card(12)], NEW)
    assert fit([EIGHT], [card(24, 12)], None, NEW).vram_bytes == 12 * GIB


def test_tags_of_one_blob_count_once() -> None:
    """Two names of one file are one model in memory, and so is one name twice."""
    tag = replace(EIGHT, blob="sha256-1")
    other = replace(tag, name="mine")

    assert distinct([tag, other, FOUR, FOUR]) == (tag, FOUR)
    assert fit([tag, other], [card(16)], 8192, NEW) == fit([tag], [card(16)], 8192, NEW)
    assert distinct([EIGHT, replace(EIGHT, name="copy")]) == (EIGHT, replace(EIGHT, name="copy"))


def test_the_window_is_that_of_the_shortest_trained_context() -> None:
    """One window for all roles: no longer than any of the models was trained for."""
    short = replace(FOUR, name="short", architecture=replace(QWEN_4B, trained_tokens=10_000))

    assert choose_window([EIGHT, short], [card(80)], NEW) == longest_window([EIGHT, short]) == 9216
    assert fit([EIGHT, short], [card(80)], None, NEW).num_ctx == 9216


def test_an_unknown_trained_context_is_not_guessed_large() -> None:
    """8,192 tokens are chosen for a model with an unknown context."""
    unknown = replace(FOUR, architecture=replace(QWEN_4B, trained_tokens=Unavailable("not told")))
    assert choose_window([unknown], [card(80)], NEW) == 8192


def test_a_model_trained_for_little_may_have_all_of_it() -> None:
    """2,048 trained tokens are chosen; fewer than a step are none."""
    little = candidate(replace(SMOL, trained_tokens=2048), 0.1)
    least = candidate(replace(SMOL, trained_tokens=1000), 0.1)

    assert choose_window([little], [card(8)], NEW) == 2048
    assert choose_window([least], [card(8)], NEW) is None


def test_no_window_below_the_smallest_useful_one_is_chosen() -> None:
    """Where 3,072 tokens would fit, none is chosen, and the answer still says what fits."""
    total = need(EIGHT, 3072, NEW).total_bytes + MARGIN_BYTES
    tight = Card("card", total, total)

    assert fit([EIGHT], [tight], None, NEW).largest_alone == 3072
    assert choose_window([EIGHT], [tight], NEW) is None


def test_together_is_worth_more_than_a_large_window_from_8192_on() -> None:
    """Both in memory with 8,192 tokens beat 40,960 with a reload; both with less do not."""

    def sized(window: int) -> list[Card]:
        room = sum(need(one, window, OLD).total_bytes for one in (EIGHT, FOUR))
        return [Card("card", room, room)]

    assert choose_window([EIGHT, FOUR], sized(8192), OLD) == 8192
    alone = choose_window([EIGHT, FOUR], sized(7168), OLD)
    assert alone == fit([EIGHT, FOUR], sized(7168), None, OLD).largest_alone > 8192


def test_no_card_and_no_model_fit_nothing() -> None:
    """Without a card nothing fits; without a model there is no window."""
    assert choose_window([EIGHT], [], NEW) is None
    assert fit([EIGHT], [], None, NEW).vram_bytes == 0
    assert not fit([EIGHT], [], 8192, NEW).fits
    assert choose_window([], [card(16)], NEW) is None


def test_ollama_evicts_what_it_believes_not_to_fit() -> None:
    """From 0.30 on a model joins others only up to 80 % of what is free: there is room, and still they swap."""
    small = Runtime(kv_type="q8_0")
    both = sum(need(one, 32_768, small).total_bytes for one in (FOUR, EIGHT)) + MARGIN_BYTES

    assert not fits_together([FOUR, EIGHT], [Card("card", both, both)], 32_768, small)
    older = replace(small, engine="B")
    assert fits_together([FOUR, EIGHT], [Card("card", both, both)], 32_768, older)
    assert fits_together([FOUR, EIGHT], [Card("card", both, 2 * both)], 32_768, small)


def test_80_percent_of_what_is_left_are_80_percent() -> None:
    """The guess for the second model is compared with the rest that the first leaves, to the byte."""
    second = replace(EIGHT, weights_bytes=5 * GIB)
    least = need(FOUR, 8192, NEW).total_bytes + ollamas_guess_bytes(second, 8192, NEW) * 5 // 4

    for free, stays in ((least, True), (least - 1, False)):
        cards = [Card("card", free, free)]
        assert stay_together([FOUR, second], cards, 8192, NEW) is stays


def test_the_first_model_is_not_held_to_80_percent() -> None:
    """Nothing is checked when nothing else is loaded."""
    needed = need(EIGHT, 8192, NEW).total_bytes + MARGIN_BYTES
    assert fits_together([EIGHT], [Card("card", needed, needed)], 8192, NEW)


# Several cards


def test_a_model_larger_than_a_card_is_split_and_pays_on_each() -> None:
    """Two cards of 24 GiB hold 33 GiB of weights; its graph and CUDA's memory are counted twice."""
    large = candidate(replace(QWEN_32B, trained_tokens=40_960), 32.7, "qwen3:32b-q8_0")
    one = need(large, 8192, NEW)
    (spread,) = fit([large], [card(24), card(24)], 8192, NEW).needs

    assert fits_together([large], [card(24), card(24)], 8192, NEW)
    assert not fits_together([large], [card(24)], 8192, NEW)
    assert spread.overhead_bytes == 2 * one.overhead_bytes + one.graph_bytes
    assert fit([EIGHT], [card(24), card(24)], 8192, NEW).needs == (need(EIGHT, 8192, NEW),)


def test_each_model_may_have_a_card_of_its_own() -> None:
    """Architect on one card and editor on the other: together, though neither card holds both."""
    fourteen = candidate(replace(QWEN_14B, trained_tokens=40_960), 8.64, "qwen3:14b")

    assert fits_together([fourteen, EIGHT], [card(16), card(12)], 16_384, NEW)
    assert not fits_together([fourteen, EIGHT], [card(16)], 16_384, NEW)


def test_layers_are_not_cut() -> None:
    """The rest of a card after whole layers cannot be used."""
    load = Load(pool_bytes=100, fixed_bytes=5, layers=10)

    assert split(load, (55, 55)) == (0, 0)
    assert split(load, (54, 56)) is None
    assert split(load, (4, 105)) == (4, 0)
    assert packs([load], (105,))
    assert not packs([load], (104,))
    assert split(Load(pool_bytes=10, fixed_bytes=5, layers=10), (5, 15)) == (5, 0)
    assert split(Load(pool_bytes=10, fixed_bytes=5, layers=10), (4, 14)) is None


@pytest.mark.parametrize(
    ("room", "cards"),
    [
        ((), 1),
        ((4, 4), 1),
        ((55, 105), 1),
        ((55, 104), 2),
        ((15, 95), 2),
        ((4, 55, 104), 2),
        ((35, 45, 55), 3),
    ],
)
def test_a_model_takes_as_many_cards_as_its_layers_need(room: tuple[int, ...], cards: int) -> None:
    """One if it holds the whole model, else all that hold a layer; one as well where there is no room at all."""
    assert cards_taken(Load(pool_bytes=100, fixed_bytes=5, layers=10), room) == cards


@pytest.mark.parametrize(
    ("loads", "room", "have_room"),
    [
        ((50, 50), (50, 50), True),
        ((90, 60, 50, 35), (95, 90, 50), True),
        ((90, 90), (80, 100), False),
        ((90, 90), (90, 89), False),
        ((30, 30, 30), (60, 29), False),
        ((30, 30, 30), (30, 60), True),
    ],
)
def test_each_model_takes_its_room(
    loads: tuple[int, ...], room: tuple[int, ...], *, have_room: bool
) -> None:
    """What one has taken of a card the next cannot have, and the other cards stay as they are."""
    assert packs([Load(size, 0, 1) for size in loads], room) is have_room


def test_one_is_split_so_that_the_other_stays_whole() -> None:
    """All ways are tried, not only the nearest."""
    large, small = Load(90, 0, 9), Load(50, 0, 1)

    assert packs([large, small], (80, 60))
    assert not packs([large, small], (70, 69))
    assert not packs([Load(15, 0, 1)], (10, 10))  # enough in all, and no card has room for a layer


def test_the_largest_card_is_not_always_the_right_one() -> None:
    """One fills the smaller card, so that two find room on the larger."""
    assert packs([Load(90, 0, 1), Load(50, 0, 1), Load(50, 0, 1)], (100, 90))


@given(
    st.lists(
        st.builds(Load, st.integers(1, 100), st.integers(0, 20), st.integers(1, 12)), max_size=4
    ),
    st.lists(st.integers(0, 150), min_size=1, max_size=3),
)
def test_packing_does_not_depend_on_the_order(loads: list[Load], room: list[int]) -> None:
    """What fits, fits in whatever order models are named; and never more than there is room."""
    answers = {packs(list(order), room) for order in permutations(loads)}
    assert len(answers) == 1
    if answers == {True}:
        assert sum(load.whole_bytes for load in loads) <= sum(room)


# Properties


cards_of = st.lists(st.builds(card, st.floats(2, 80)), min_size=1, max_size=2)
models = st.lists(
    st.builds(
        candidate,
        st.sampled_from([SMOL, QWEN_4B, QWEN_8B, QWEN_30B_A3B, LITE, GEMMA_3]).map(
            lambda one: replace(one, trained_tokens=40_960)
        ),
        st.floats(0.1, 20),
        st.sampled_from(["a", "b", "c"]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one.name,
)
runtimes = st.builds(
    Runtime,
    engine=st.sampled_from(["A", "B", "C"]),
    kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    parallel=st.integers(1, 2),
    flash_attention=st.booleans(),
)


@given(models, cards_of, runtimes)
def test_the_chosen_window_fits_and_the_next_does_not(
    candidates: list[Candidate], cards: list[Card], runtime: Runtime
) -> None:
    """Multiples of 1,024, at most the trained context, useful, and the largest there is."""
    window = choose_window(candidates, cards, runtime)
    answer = fit(candidates, cards, None, runtime)

    if window is None:
        assert answer.largest_alone < 4096
        assert answer.largest_together < 8192
        return
    fitting = fits_together if window == answer.largest_together else fits_alone
    assert window % 1024 == 0
    assert 4096 <= window <= 40_960
    assert answer.num_ctx == window
    assert fitting(candidates, cards, window, runtime)
    assert window == 40_960 or not fitting(candidates, cards, window + 1024, runtime)


@given(models, cards_of, runtimes)
def test_what_fits_is_never_more_than_the_cards_have(
    candidates: list[Candidate], cards: list[Card], runtime: Runtime
) -> None:
    """A card that no layer needs costs nothing, so the sum that is shown agrees with the verdict."""
    answer = fit(candidates, cards, None, runtime)
    if answer.fits:
        assert sum(one.total_bytes for one in answer.needs) <= sum(
            card.free_bytes for card in cards
        )


@given(models, st.floats(4, 60), runtimes)
def test_what_fits_a_window_fits_smaller_ones_and_larger_cards(
    candidates: list[Candidate], gib: float, runtime: Runtime
) -> None:
    """On one card and with one batch: monotone in the window and in the card; together implies alone."""
    runtime = replace(runtime, batch_tokens=512)
    answer = fit(candidates, [card(gib)], None, runtime)
    assume(answer.largest_together > 1024)

    for window in range(1024, answer.largest_together, 3072):
        assert fits_together(candidates, [card(gib)], window, runtime)
        assert fits_together(candidates, [card(gib + 1)], window, runtime)
    assert answer.largest_alone >= answer.largest_together


@given(models, cards_of, runtimes, st.integers(1024, 40_960))
def test_nothing_spills_exactly_when_a_model_fits_alone(
    candidates: list[Candidate], cards: list[Card], runtime: Runtime, window: int
) -> None:
    """The bytes on the CPU are none for what fits, some for what does not, never more than weights and cache."""
    for one in candidates:
        spilled = spilled_bytes(one, cards, window, runtime)
        its = need(one, window, runtime)

        assert (spilled == 0) is fits_alone([one], cards, window, runtime)
        assert spilled <= its.total_bytes - its.graph_bytes


# What it costs


def test_what_does_not_fit_spills_by_layers() -> None:
    """30b-a3b on 16 GiB: whole layers with their part of the cache go to the CPU; without a card all of them do."""
    spilled = spilled_bytes(A3B, [card(16)], 8192, NEW)

    assert 4 * GIB < spilled < 5.5 * GIB
    everything = need(A3B, 8192, NEW)
    assert spilled_bytes(A3B, [], 8192, NEW) == everything.weights_bytes + everything.kv_bytes


def test_a_hand_over_loads_the_weights_again() -> None:
    """Each change of the model reads its file anew; the seconds are an estimate at a rate that is given."""
    assert hand_overs([A3B, EIGHT, EIGHT]) == (
        SwapCost("qwen3:30b-a3b", A3B.weights_bytes),
        SwapCost("qwen3:8b", EIGHT.weights_bytes),
    )
    assert hand_overs([EIGHT]) == ()
    assert SwapCost("m", 500 * MIB).estimated_seconds(250 * MIB) == 2


@pytest.mark.parametrize(
    ("gib", "window", "parallel", "batch"),
    [
        (80, 4096, 1, 512),
        (80, 4097, 1, 1024),
        (80, 32_768, 1, 1024),
        (80, 32_769, 1, 2048),
        (80, 16_385, 2, 2048),
        (24, 32_768, 1, 1024),
        (24, 40_960, 1, 1024),
        (22, 8192, 1, 1024),
        (20, 8192, 1, 512),
        (10, 8192, 1, 512),
    ],
)
def test_the_batch_is_smaller_where_memory_is_short(
    gib: float, window: int, parallel: int, batch: int
) -> None:
    """By Ollama's own guess: at most 75 per cent for 1,024, 60 for 2,048, and 80 with what it adds."""
    runtime = replace(NEW, parallel=parallel)
    chosen = with_batch(replace(A3B, weights_bytes=int(15.6 * GIB)), [card(gib)], window, runtime)
    assert chosen == replace(runtime, batch_tokens=batch)


def test_a_batch_that_is_given_stays() -> None:
    """And versions before 0.30 know one only."""
    given_batch = replace(NEW, batch_tokens=256)
    assert with_batch(A3B, [card(80)], 65_536, given_batch) is given_batch
    old = Runtime("B")
    assert with_batch(A3B, [card(80)], 65_536, old) is old
