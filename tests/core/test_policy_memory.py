"""Memory that runs short: its measure, its notice, and when a restart is tried against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from core.histories_of_events import (
    GIB,
    OTHERS,
    OURS,
    UNKNOWN,
    Step,
    Story,
    Wait,
    actions_of,
    at_first_prompt,
    gpu_memory,
    histories,
    models,
    pairs,
    with_age_at,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aider_guard.core.actions import RunHidden, ShowNotice
from aider_guard.core.events import (
    AiderExited,
    AiderStarted,
    ChatSaved,
    DeadlinePassed,
    Event,
    MemoryRead,
    ModelsRead,
    ModelsUnloaded,
    PromptShown,
    SidecarLost,
)
from aider_guard.core.readings import (
    INTEGRATED_INTEL,
    Gpu,
    GpuProcess,
    MemoryReading,
    RamReading,
    Unavailable,
)
from aider_guard.core.rules.memory import is_short, on_cpu, pressure_percent
from aider_guard.core.state import Limits, State

FAST = Limits(readings_for_restart=5, max_turns=0, probe="never")
SAVES = RunHidden("save")


def card(used_gib: float, total_gib: float = 8) -> Gpu:
    return Gpu(0, "card", int(total_gib * GIB), int(used_gib * GIB), ())


def memory(
    gpus: tuple[Gpu, ...] | Unavailable, used_gib: float | None = 2, total_gib: float = 16
) -> MemoryReading:
    used = UNKNOWN if used_gib is None else None
    ram = used or RamReading(
        int(total_gib * GIB), int((total_gib - (used_gib or 0)) * GIB), UNKNOWN
    )
    return MemoryReading(gpus, ram, 0.0)


def with_model(vram: int | None) -> State:
    """The main model is loaded with so much of it on a GPU, or not at all."""
    story = at_first_prompt()
    if vram is not None:
        story.tell(models(OURS, at=story.now, vram=vram))
    return story.state


NOT_TOLD = Unavailable("not told")
APU = replace(card(2), shares_main_memory=True)
APPLE = replace(APU, vram_used_bytes=NOT_TOLD, processes=NOT_TOLD)


def arc(held_gib: float) -> Gpu:
    """A card whose use is not told but for what one process is seen to hold."""
    process = GpuProcess(7, "ollama", int(held_gib * GIB), is_ollama=True)
    return Gpu(0, "Arc", 8 * GIB, NOT_TOLD, (process,))


PRESSURES: list[tuple[str, State, MemoryReading, float | None]] = [
    ("one card", with_model(GIB), memory((card(6),)), 75.0),
    ("the fuller of two", with_model(GIB), memory((card(2), card(6))), 75.0),
    ("a card, no model", with_model(None), memory((card(6),)), 75.0),
    ("a card, the model on the CPU", with_model(0), memory((card(6),), 4), 25.0),
    ("no card, the model on the CPU", with_model(0), memory(UNKNOWN, 4), 25.0),
    ("no card, no model", with_model(None), memory(UNKNOWN, 4), None),
    ("no card, the model elsewhere", with_model(GIB), memory((), 4), None),
    ("nothing readable", with_model(0), memory(UNKNOWN, None), None),
    ("a card of no size", with_model(GIB), memory((card(1, 0),), 4), None),
    ("one card of no size", with_model(GIB), memory((card(1, 0), card(4))), 50.0),
    ("a machine of no size", with_model(0), memory(UNKNOWN, 0, 0), None),
    ("a GPU in main memory", with_model(GIB), memory((APU,), 12), 75.0),
    ("a GPU in main memory that has room", with_model(GIB), memory((APU,), 2), 25.0),
    ("a GPU in main memory, no model", with_model(None), memory((APU,), 12), 25.0),
    ("Intel's own GPU", with_model(GIB), memory(INTEGRATED_INTEL, 12), 75.0),
    ("Intel's own GPU, no model", with_model(None), memory(INTEGRATED_INTEL, 12), None),
    ("Apple's GPU", with_model(GIB), memory((APPLE,), 12), 75.0),
    ("Apple's GPU, no model", with_model(None), memory((APPLE,), 12), None),
    ("a use that is not told", with_model(GIB), memory((arc(7),), 12), None),
    ("a use that is enough anyway", with_model(GIB), memory((arc(7.6),), 12), 95.0),
    ("not told beside one that is", with_model(GIB), memory((arc(7), card(4)), 12), 50.0),
    ("a card of one byte", with_model(GIB), memory((Gpu(0, "card", 1, 1, ()),)), 100.0),
    ("a machine of one byte", with_model(0), memory(UNKNOWN, 1 / GIB, 1 / GIB), 100.0),
]


@pytest.mark.parametrize(("what", "state", "reading", "percent"), PRESSURES)
def test_the_pressure_is_that_of_the_memory_in_use(
    what: str, state: State, reading: MemoryReading, percent: float | None
) -> None:
    """It is that of the fullest GPU, of the main memory when the model is on the CPU, and else unavailable."""
    found = pressure_percent(state, reading)
    assert isinstance(found, Unavailable) if percent is None else found == pytest.approx(percent), (
        what
    )


@pytest.mark.parametrize(
    ("vram", "reading", "words"),
    [
        (GIB, memory((card(7.6),)), "GPU memory 95 % full: 7.6 GiB of 8.0 GiB (card)"),
        (GIB, memory((arc(7.6),)), "GPU memory at least 95 % full: 7.6 GiB of 8.0 GiB (Arc)"),
        (GIB, memory((APU,), 15.2), "main memory nearly full: 15.2 GiB of 16.0 GiB in use"),
        (GIB, memory((APPLE,), 15.2), "main memory nearly full: 15.2 GiB of 16.0 GiB in use"),
        (
            GIB,
            memory(INTEGRATED_INTEL, 15.2),
            "main memory nearly full: 15.2 GiB of 16.0 GiB in use",
        ),
        (0, memory((card(2),), 15.2), "main memory nearly full: 15.2 GiB of 16.0 GiB in use"),
    ],
)
def test_the_notice_is_about_the_memory_that_is_full(
    vram: int, reading: MemoryReading, words: str
) -> None:
    """Of a GPU or of the machine, also where there is a card and the model runs on the CPU."""
    story = at_first_prompt()
    story.tell(models(OURS, at=story.now, vram=vram))
    told = [MemoryRead(replace(reading, taken_at=story.now)) for _ in range(3)]
    (notice,) = [act.notice for act in story.tell(*told) if isinstance(act, ShowNotice)]
    assert notice.lines[0] == words


def test_a_model_is_on_the_cpu_when_no_part_of_it_is_elsewhere() -> None:
    """Only a loaded main model can be on the CPU."""
    assert [on_cpu(with_model(vram)) for vram in (0, 1, GIB, None)] == [True, False, False, False]
    assert not on_cpu(State())


CROSSINGS: list[tuple[list[int], int]] = [
    ([95, 95], 0),
    ([95, 95, 95], 1),
    ([90, 90, 90], 1),
    ([89, 89, 89, 89], 0),
    ([95, 95, 89, 95, 95, 89], 0),
    ([95] * 9, 1),
    ([95, 95, 95, 86, 95, 95, 95], 1),
    ([95, 95, 95, 84, 95, 95, 95], 2),
]


@pytest.mark.parametrize(("percents", "notices"), CROSSINGS)
def test_one_notice_a_crossing(percents: list[int], notices: int) -> None:
    """After three readings in a row at 90 per cent; again only after one below 85."""
    story = at_first_prompt()
    for percent in percents:
        story.tell(Wait(2.0), gpu_memory(percent, at=story.now + 2.0))
    assert [a.notice.name for a in actions_of(story.steps, ShowNotice)] == [
        "memory_short"
    ] * notices


def pressed(
    count: int, limits: Limits = FAST, *, turn: bool = True, names: tuple[str, ...] = (OURS,)
) -> Story:
    """A session under pressure for so many readings."""
    story = at_first_prompt(limits)
    story.tell(models(*names, at=story.now))
    if turn:
        story.turn()
    press(story, count)
    return story


def press(story: Story, count: int, percent: float = 95) -> None:
    for _ in range(count):
        story.tell(Wait(2.0), gpu_memory(percent, at=story.now + 2.0))


def saves(story: Story) -> int:
    """The number of restarts that began."""
    return sum(action == SAVES for _, action in pairs(story.steps))


def restarted(story: Story, *, frees_to: float = 20) -> None:
    """The restart that is due takes place; memory falls while the model is unloaded."""
    assert SAVES in story.prompt()
    story.tell(ChatSaved(), AiderExited(0), models(at=story.now))
    story.tell(gpu_memory(frees_to, at=story.now), ModelsUnloaded((OURS,), GIB, 1.0))
    story.tell(AiderStarted(2, 43), PromptShown(), gpu_memory(frees_to, at=story.now))


def test_pressure_that_persists_asks_for_a_restart() -> None:
    """After so many readings in a row, and not before."""
    assert SAVES not in pressed(4).prompt()
    assert SAVES in pressed(5).prompt()


@pytest.mark.parametrize(("count", "is_due"), [(29, False), (30, True)])
def test_memory_that_stays_short_for_a_minute_is_a_reason_for_a_restart(
    count: int, is_due: bool
) -> None:
    """It is read every two seconds."""
    assert bool(pressed(count, Limits(probe="never")).state.restart_due) is is_due


@pytest.mark.parametrize(
    "story",
    [
        lambda: pressed(50, turn=False),
        lambda: pressed(50, names=(OTHERS,)),
        lambda: pressed(50, names=()),
    ],
    ids=["no turn was taken", "another's model is loaded", "no model is loaded"],
)
def test_no_restart_that_could_not_help(story: Callable[[], Story]) -> None:
    """A restart frees only this session's models, and only after a turn there is something to free."""
    assert SAVES not in story().prompt()


def test_a_restart_is_tried_once_until_memory_fell_with_the_model_loaded() -> None:
    """Free memory counts only with the model loaded."""
    story = pressed(5)
    restarted(story)
    for _ in range(3):
        story.tell(models(OURS, at=story.now))
        story.turn()
        press(story, 10)
        story.prompt()
    assert saves(story) == 1
    press(story, 1, percent=60)
    press(story, 5)
    assert saves(story) == 2


def test_a_due_restart_is_dropped_when_its_reading_is_old() -> None:
    """If the prompt comes a minute later without a new reading, there is no restart, and it may be tried again."""
    story = pressed(5)
    story.tell(Wait(11.0))
    story.prompt()
    assert saves(story) == 0
    press(story, 1)
    assert saves(story) == 1


ABSENT: list[Event] = [
    SidecarLost("it died"),
    DeadlinePassed("sidecar_silent"),
    MemoryRead(MemoryReading(UNKNOWN, UNKNOWN, 0.0)),
    ModelsRead(UNKNOWN),
]


@pytest.mark.parametrize("event", ABSENT, ids=["lost", "silent", "no memory", "no models"])
def test_an_absent_reading_never_leads_to_a_restart(event: Event) -> None:
    """It causes none itself, and it ends the row of readings."""
    story = pressed(4)
    story.tell(with_age_at(event, story.now))
    press(story, 1)
    story.prompt()
    assert saves(story) == 0


@pytest.mark.parametrize(
    "event",
    [*ABSENT[:3], gpu_memory(89, at=0.0), gpu_memory(50, at=0.0)],
    ids=["lost", "silent", "no memory", "below the limit", "free"],
)
def test_after_an_interruption_as_many_readings_are_needed_as_at_first(event: Event) -> None:
    """Four more are not enough where five are needed."""
    story = pressed(4)
    story.tell(with_age_at(event, story.now), models(OURS, at=story.now))
    press(story, 4)
    assert not story.state.restart_due
    press(story, 1)
    assert story.state.restart_due


@pytest.mark.parametrize(("age", "notices"), [(10.0, 1), (10.1, 0)])
def test_a_reading_counts_for_ten_seconds(age: float, notices: int) -> None:
    """An older one is no reason for a notice."""
    story = at_first_prompt()
    story.tell(*[gpu_memory(95, at=story.now - age)] * 3)
    assert len(actions_of(story.steps, ShowNotice)) == notices


def test_a_due_restart_is_dropped_when_nothing_is_read_any_more() -> None:
    """The sidecar was lost before the next prompt."""
    story = pressed(5)
    assert story.state.restart_due
    story.tell(SidecarLost("it died"))
    story.prompt()
    assert (saves(story), story.state.restart_due) == (0, "")


def test_old_readings_count_for_nothing() -> None:
    """No number of old readings causes a notice or a restart."""
    story = at_first_prompt(FAST)
    story.tell(models(OURS, at=story.now))
    story.turn()
    for _ in range(50):
        story.tell(Wait(2.0), gpu_memory(99, at=story.now - 11.0))
    assert not actions_of(story.steps, ShowNotice)
    assert SAVES not in story.prompt()
    assert not is_short(story.state, story.now)


def test_a_users_wish_is_not_dropped_with_the_pressure() -> None:
    """A restart by count that became due under pressure stays due when memory is free again."""
    story = pressed(5, Limits(readings_for_restart=5, max_turns=2, probe="never"))
    story.turn()
    story.tell(Wait(60.0))
    assert SAVES in story.prompt()


@settings(max_examples=200)
@given(histories())
def test_a_restart_for_memory_has_a_fresh_reading_above_the_limit(steps: list[Step]) -> None:
    """In any history it follows a reading that is at most 10 s old and above the limit."""
    newest: MemoryReading | None = None
    for step in steps:
        match step.event:
            case MemoryRead(reading):
                newest = reading
            case SidecarLost() | DeadlinePassed("sidecar_silent"):
                newest = None
        restart = step.after.restart
        if SAVES in step.actions and restart and restart.reason == "memory stayed short":
            assert newest is not None
            assert step.now - newest.taken_at <= 10.0
            percent = pressure_percent(step.after, newest)
            assert isinstance(percent, float)
            assert percent >= 90


@settings(max_examples=200)
@given(histories())
def test_between_two_notices_of_any_history_memory_was_free(steps: list[Step]) -> None:
    """Whatever else happens, a second notice needs a fresh reading in between that is below 85 per cent."""
    warned = False
    for step in steps:
        if isinstance(step.event, MemoryRead) and step.now - step.event.reading.taken_at <= 10:
            percent = pressure_percent(step.before, step.event.reading)
            warned = warned and not (isinstance(percent, float) and percent < 85)
        for action in step.actions:
            if isinstance(action, ShowNotice) and action.notice.name == "memory_short":
                assert isinstance(step.event, MemoryRead)
                assert not warned
                warned = True


@given(st.lists(st.integers(0, 100), max_size=60))
def test_the_notice_comes_at_the_third_reading_in_a_row(percents: list[int]) -> None:
    """For any readings it comes exactly where a simple count says."""
    story = at_first_prompt(Limits(probe="never"))
    run, warned, expected = 0, False, 0
    for percent in percents:
        run = run + 1 if percent >= 90 else 0
        warned = warned and percent >= 85
        if run >= 3 and not warned:
            warned, expected = True, expected + 1
        press(story, 1, percent)
        assert len(actions_of(story.steps, ShowNotice)) == expected
    assert not [action for _, action in pairs(story.steps) if action == SAVES]


AT_75 = Limits(vram_warn_at_percent=75, hysteresis_percent=25, probe="never")


@pytest.mark.parametrize(
    ("percents", "notices"),
    [
        ([75] * 3, 1),
        ([74] * 9, 0),
        ([75] * 3 + [50] + [75] * 3, 1),
        ([75] * 3 + [49] + [75] * 3, 2),
    ],
)
def test_the_limits_themselves_are_short_and_not_free(percents: list[int], notices: int) -> None:
    """At the limit memory is short; it is free again only below the limit less the hysteresis."""
    story = at_first_prompt(AT_75)
    for percent in percents:
        press(story, 1, percent)
    assert len(actions_of(story.steps, ShowNotice)) == notices


@pytest.mark.parametrize(
    ("percent", "age", "short_now"), [(75, 10.0, True), (75, 10.1, False), (74, 0.0, False)]
)
def test_short_is_at_the_limit_and_not_older_than_ten_seconds(
    percent: int, age: float, short_now: bool
) -> None:
    story = at_first_prompt(AT_75)
    story.tell(gpu_memory(percent, at=story.now))
    assert is_short(story.state, story.now + age) is short_now
