"""Comparing each model once with its computed need, and the notice on a model that spilled."""

from __future__ import annotations

import pytest
from core.histories_of_events import GIB, OURS, UNKNOWN, Story, Wait, actions_of

from aider_guard.core.actions import Action, RememberNeed, ShowNotice
from aider_guard.core.events import AiderStarted, MemoryRead, ModelsChosen, ModelsRead
from aider_guard.core.fit import Need
from aider_guard.core.readings import (
    Gpu,
    GpuProcess,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    Unavailable,
)
from aider_guard.core.rules.memory import ollama_bytes, smaller_window

WINDOW = 8192
NEED = Need("ours", 5 * GIB, 2 * GIB, GIB // 2, GIB // 2)
HIDDEN = Unavailable("hidden")


def with_needs(needs: tuple[Need, ...] = (NEED,), turns: int = 1) -> Story:
    story = Story()
    story.tell(AiderStarted(1, 42), ModelsChosen("ours", ("ours",), WINDOW, needs=needs))
    story.prompt()
    for _ in range(turns):
        story.turn()
    return story


def loaded(story: Story, size: int, vram: int, *more: str, age: float = 0.0) -> ModelsRead:
    models = [LoadedModel(OURS, "", size, vram, WINDOW)]
    models += [LoadedModel(name, "", GIB, GIB, WINDOW) for name in more]
    return ModelsRead(ModelsReading(tuple(models), story.now - age))


def gpu(*used: int | Unavailable, is_ollama: bool = True) -> Gpu:
    processes = tuple(GpuProcess(n, "p", bytes_, is_ollama) for n, bytes_ in enumerate(used, 1))
    return Gpu(0, "card", 16 * GIB, 9 * GIB, processes)


def memory(story: Story, *gpus: Gpu, age: float = 0.0) -> MemoryRead:
    return MemoryRead(MemoryReading(gpus or UNKNOWN, UNKNOWN, story.now - age))


def of_fit(actions: list[Action]) -> list[Action]:
    notices = [a for a in actions if isinstance(a, ShowNotice) and a.notice.name == "model_spilled"]
    return [a for a in actions if isinstance(a, RememberNeed)] + list[Action](notices)


def test_what_the_driver_counts_is_compared_with_what_was_computed() -> None:
    """Nine GiB are used and eight were computed: one more is kept, without a notice while all is on the GPU."""
    story = with_needs()
    actions = story.tell(loaded(story, 8 * GIB, 8 * GIB), memory(story, gpu(9 * GIB)))
    assert of_fit(actions) == [RememberNeed("ours", GIB)]


def test_a_model_is_compared_once() -> None:
    """Later readings are not compared again."""
    story = with_needs()
    story.tell(loaded(story, 8 * GIB, 8 * GIB), memory(story, gpu(9 * GIB)))
    again = story.tell(loaded(story, 8 * GIB, 6 * GIB), memory(story, gpu(9 * GIB)))
    assert of_fit(again) == []


def test_what_was_loaded_before_the_turn_is_not_compared() -> None:
    """A list that is older than the turn's end may be of another loading; the next one is compared."""
    story = with_needs()
    before = loaded(story, 8 * GIB, 8 * GIB)
    story.tell(Wait(1.0))
    story.turn()
    assert of_fit(story.tell(before, memory(story, gpu(9 * GIB)))) == []
    assert of_fit(story.tell(loaded(story, 8 * GIB, 8 * GIB), memory(story, gpu(9 * GIB))))


def test_a_model_that_spilled_is_told_with_the_window_that_fits() -> None:
    """One of eight GiB is on the CPU: half of the cache of two would have been too much."""
    story = with_needs()
    actions = story.tell(loaded(story, 8 * GIB, 7 * GIB), memory(story, gpu(7 * GIB)))
    kept, said = of_fit(actions)
    assert kept == RememberNeed("ours", 0)
    assert isinstance(said, ShowNotice)
    assert said.notice.lines == (
        "ours:latest does not fit: 1.0 GiB of it (12 %) runs on the CPU, which is slow",
        "--num-ctx 4096 would fit; auto takes it from the next start on",
    )


def test_without_a_window_that_fits_a_smaller_model_is_named() -> None:
    """The cache is smaller than what spilled."""
    story = with_needs()
    actions = story.tell(loaded(story, 8 * GIB, 5 * GIB), memory(story, gpu(5 * GIB)))
    (_, said) = of_fit(actions)
    assert isinstance(said, ShowNotice)
    assert said.notice.lines[1] == "no window of this model fits; a smaller one would"


@pytest.mark.parametrize("gpus", [(gpu(HIDDEN),), (gpu(),), (Gpu(0, "card", GIB, 0, HIDDEN),)])
def test_where_the_driver_hides_processes_ollama_is_believed(gpus: tuple[Gpu, ...]) -> None:
    """Then the size in /api/ps counts, with the overhead that it leaves out."""
    story = with_needs()
    actions = story.tell(loaded(story, 8 * GIB, 8 * GIB), memory(story, *gpus))
    assert of_fit(actions) == [RememberNeed("ours", GIB // 2)]


def test_with_another_model_beside_it_the_drivers_sum_says_nothing_of_one() -> None:
    """With two models in one sum, Ollama's own number for each is used."""
    story = with_needs()
    actions = story.tell(loaded(story, 8 * GIB, 8 * GIB, "weak"), memory(story, gpu(12 * GIB)))
    assert of_fit(actions) == [RememberNeed("ours", GIB // 2)]


def test_nothing_is_concluded_from_what_is_old_absent_or_too_early() -> None:
    """No turn yet, no GPU, an old reading, a model on the CPU, or a model without a computed need."""
    early = with_needs(turns=0)
    assert of_fit(early.tell(loaded(early, GIB, GIB), memory(early, gpu(GIB)))) == []
    story = with_needs()
    full = loaded(story, 8 * GIB, 8 * GIB)
    assert of_fit(story.tell(full, memory(story))) == []
    assert of_fit(story.tell(full, memory(story, gpu(GIB), age=11))) == []
    assert of_fit(story.tell(ModelsRead(UNKNOWN), memory(story, gpu(GIB)))) == []
    assert of_fit(story.tell(loaded(story, GIB, GIB, age=11), memory(story, gpu(GIB)))) == []
    assert of_fit(story.tell(loaded(story, GIB, 0), memory(story, gpu(GIB)))) == []
    other = with_needs(needs=())
    assert of_fit(other.tell(loaded(other, GIB, GIB), memory(other, gpu(GIB)))) == []
    late = with_needs()
    late.tell(loaded(late, GIB, GIB), Wait(11))
    assert of_fit(late.tell(memory(late, gpu(GIB)))) == []


@pytest.mark.parametrize(("age", "is_compared"), [(10.0, True), (10.1, False)])
def test_readings_are_compared_for_ten_seconds(age: float, is_compared: bool) -> None:
    """The list of models and the memory may both be so old."""
    story = with_needs()
    story.tell(Wait(20.0))
    actions = story.tell(
        loaded(story, 8 * GIB, 8 * GIB, age=age), memory(story, gpu(9 * GIB), age=age)
    )
    assert bool(of_fit(actions)) is is_compared


def test_only_ollamas_processes_count_and_all_cards_do() -> None:
    """Two cards, with one process of another program."""
    assert ollama_bytes((gpu(GIB), gpu(2 * GIB), gpu(GIB, is_ollama=False))) == 3 * GIB


SMALLER = [
    (Need("m", 0, 2 * GIB, 0, 0), GIB, 8192, 4096),
    (Need("m", 0, 2 * GIB, 0, 0), 1, 8192, 7168),
    (Need("m", 0, 2 * GIB, 0, 0), 3 * GIB, 8192, 0),
    (Need("m", 0, 0, 0, 0), 1, 8192, 0),
    (Need("m", 0, 1, 0, 0), 0, 8192, 8192),
    (Need("m", 0, GIB, 0, 0), 1, Unavailable("x"), 0),
]


@pytest.mark.parametrize(("need", "spilled", "window", "expected"), SMALLER)
def test_the_window_that_would_have_fitted(
    need: Need, spilled: int, window: int | Unavailable, expected: int
) -> None:
    """The cache shrinks in proportion; whole 1,024 tokens, 0 when none would do."""
    assert smaller_window(need, spilled, window) == expected


def test_the_kept_number_is_for_the_name_that_was_computed_for() -> None:
    """``ours`` is loaded as ``ours:latest``."""
    story = with_needs()
    story.tell(loaded(story, 8 * GIB, 8 * GIB), memory(story, gpu(8 * GIB)))
    assert actions_of(story.steps, RememberNeed) == [RememberNeed("ours", 0)]
