"""Which models for which cards: properties of what core/fit computes, no numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.catalogue import catalogue_entries, find
from aider_guard.core.fit import Card, choose_window, fit
from aider_guard.core.model_memory import Candidate, Runtime
from aider_guard.core.readings import Unavailable
from aider_guard.launch.model_choice import (
    PAIR_WINDOW_TOKENS,
    CandidateModel,
    ModelPlan,
    candidate_models,
    choose,
    map_tokens,
    plan_for,
)

GIB = 1 << 30
CATALOGUE = candidate_models((), [entry.candidate for entry in catalogue_entries()])
RUNTIMES = (
    Runtime(),
    Runtime(engine="A", flash_attention=False),
    Runtime(kv_type="q8_0", parallel=2),
)
TIERS = ([4.0], [6.0], [8.0], [12.0], [16.0], [24.0], [32.0], [24.0, 24.0])


def cards(sizes: Sequence[float]) -> tuple[Card, ...]:
    return tuple(Card("", int(size * GIB), int(size * GIB)) for size in sizes)


def candidate(name: str) -> Candidate:
    """An entry of the catalogue."""
    entry = find(name)
    assert entry is not None, name
    return replace(entry.candidate, name=name)


def plan(
    sizes: Sequence[float],
    models: Sequence[CandidateModel] = CATALOGUE,
    runtime: Runtime = RUNTIMES[0],
) -> ModelPlan:
    """The plan, which there must be."""
    chosen = choose(models, cards(sizes), runtime)
    assert isinstance(chosen, ModelPlan), chosen
    return chosen


def have(*names: str) -> tuple[CandidateModel, ...]:
    """The catalogue with these installed."""
    return candidate_models(
        [candidate(name) for name in names], [model.candidate for model in CATALOGUE]
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("sizes", TIERS)
def test_what_is_chosen_for_a_card_fits_on_it(sizes: list[float], runtime: Runtime) -> None:
    """All models at once, with the window that a session of them would get, and a useful one."""
    chosen = plan(sizes, runtime=runtime)
    models = [model.candidate for model in chosen.models]

    assert fit(models, cards(sizes), chosen.window_tokens, runtime) == chosen.fit
    assert chosen.fit.fits
    assert chosen.window_tokens == choose_window(models, cards(sizes), runtime)
    assert chosen.window_tokens >= (PAIR_WINDOW_TOKENS if chosen.editor else 8192)


def test_one_card_gets_one_model_and_two_get_an_architect_with_an_editor() -> None:
    """The weak model is one that is in memory already, so that no other is loaded."""
    for sizes in ([8.0], [12.0], [16.0], [24.0]):
        chosen = plan(sizes)
        assert (chosen.editor, chosen.weak) == (None, chosen.main)
    two = plan([24.0, 24.0])
    assert two.editor is not None
    assert two.weak == two.editor != two.main
    assert two.reason == plan([48.0]).reason == plan([24.0]).reason


def test_larger_cards_get_larger_models() -> None:
    """What a reader expects of the tiers: about 3, 4, 9, 12, 20 and 27 billion parameters, and 27 with an editor."""
    mains = [plan(sizes).main.name for sizes in TIERS]

    assert mains == [
        "qwen2.5-coder:3b",
        "qwen3.5:4b",
        "qwen3.5:9b",
        "gemma4:12b",
        "gpt-oss:20b",
        *["qwen3.8:27b-mtp-q4_K_M"] * 3,
    ]
    assert all(plan(sizes).window_tokens >= 8192 for sizes in TIERS)


def tier_row(sizes: Sequence[float]) -> str:
    """A row of the table in docs/init.md."""
    chosen = plan(sizes)
    size = f"{sizes[0]:g}" if len(sizes) == 1 else f"{len(sizes)} x {sizes[0]:g}"
    editor = f" `{chosen.editor.name}` " if chosen.editor else " "
    return f"| {size} GiB | `{chosen.main.name}` | {chosen.window_tokens:,} |{editor}|"


def test_the_documentation_names_what_each_card_gets() -> None:
    """docs/init.md, row by row."""
    documented = (Path(__file__).parents[2] / "docs" / "init.md").read_text(encoding="utf-8")

    assert "\n".join(tier_row(sizes) for sizes in TIERS) in documented


def test_models_of_ollamas_library_are_pulled_before_others() -> None:
    """A file of another place has a template that Ollama makes up: chosen where nothing else fits, or it is there."""
    elsewhere = "hf.co/unsloth/Qwen3.8-27B-GGUF:UD-Q3_K_XL"
    assert plan([16]).main.name == "gpt-oss:20b"
    assert plan([16], have(elsewhere)).main.name == elsewhere
    assert plan([16], candidate_models((), [candidate(elsewhere)])).main.name == elsewhere


def test_an_editor_is_of_another_family() -> None:
    """qwen3.6:27b beside qwen3.8:27b is as slow, and no stronger."""
    names = ("qwen3.8:27b", "qwen3.6:27b", "qwen3.5:27b")
    assert plan([80], have(*names)).editor is None
    beside = plan([80], have(*names, "gemma4:12b")).editor
    assert beside is not None
    assert beside.name == "gemma4:12b"


@given(st.lists(st.floats(1, 100), min_size=1, max_size=3), st.sampled_from(RUNTIMES))
def test_any_cards_get_what_fits_or_a_reason(sizes: list[float], runtime: Runtime) -> None:
    """Whatever the sizes: all in memory at once, or a sentence."""
    chosen = choose(CATALOGUE, cards(sizes), runtime)

    if isinstance(chosen, Unavailable):
        assert "8,192" in chosen.reason
        smallest = choose_window([candidate("qwen2.5-coder:1.5b")], cards(sizes), runtime)
        assert smallest in (None, *range(8192))
    else:
        assert chosen.fit.fits
        assert len({model.name for model in chosen.models}) == len(chosen.models)


def test_a_card_with_little_left_on_it_gets_a_smaller_model() -> None:
    """What other programs hold is not there."""
    busy = (Card("", 16 * GIB, 8 * GIB),)
    chosen = choose(CATALOGUE, busy, RUNTIMES[0])

    assert isinstance(chosen, ModelPlan)
    assert chosen.main == plan([8]).main


def test_installed_models_come_first() -> None:
    """A stronger one that must be pulled is not taken while one that is there does."""
    chosen = plan([24], have("qwen3:8b", "qwen3:4b"))

    assert chosen.main.name == "qwen3:8b"
    assert chosen.to_pull == ()
    assert plan([24]).to_pull == (plan([24]).main.name,)


def test_an_installed_model_that_does_not_fit_is_passed_over() -> None:
    """For the next one that is installed, else for one of the catalogue."""
    assert plan([8], have("qwen3:32b", "qwen3:4b")).main.name == "qwen3:4b"
    assert plan([8], have("qwen3:32b")).to_pull != ()


def test_no_second_model_is_pulled_beside_installed_ones() -> None:
    """Settings that work at once are better than ones that wait for a download."""
    assert plan([24, 24], have("qwen3:32b")).editor is None
    assert plan([24, 24], have("qwen3:32b", "qwen3:8b")).editor is not None


def test_an_editor_is_another_model_that_edits_well() -> None:
    """Not the main model in another quantisation or under another tag, and none of the smallest."""
    again = replace(candidate("qwen3:8b"), name="mine", blob="sha256-1")
    models = candidate_models([replace(candidate("qwen3:8b"), blob="sha256-1"), again], ())

    assert plan([48], models).editor is None
    assert plan([48], have("qwen3:8b-q8_0", "qwen3:8b")).editor is None
    assert plan([48], have("qwen3:14b", "qwen3:4b")).editor is None
    assert plan([48], have("qwen3:14b", "qwen3:8b")).editor is not None


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("nomic-embed-text:latest", "nomic-bert"), ("bge-m3:latest", "bert"), ("x:4b-cloud", "qwen3")],
)
def test_a_model_that_cannot_chat_here_is_never_chosen(name: str, architecture: str) -> None:
    """Embedding models by their architecture or name, a cloud's by its tag."""
    base = candidate("qwen3:8b")
    odd = replace(base, name=name, architecture=replace(base.architecture, name=architecture))

    assert isinstance(choose(candidate_models([odd], ()), cards([24]), RUNTIMES[0]), Unavailable)


def test_a_model_that_is_not_listed_comes_after_those_that_are() -> None:
    """And only when it is large enough to follow an edit format at all."""
    large = replace(candidate("qwen3:14b"), name="mine:latest")
    small = replace(candidate("qwen3:4b"), name="tiny:latest", weights_bytes=10**9)

    other = replace(candidate("qwen3:8b"), name="other:latest")
    assert plan([24], candidate_models([other, large], ())).main.name == "mine:latest"
    assert plan([24], candidate_models([large, candidate("qwen3:8b")], ())).main.name == "qwen3:8b"
    assert isinstance(choose(candidate_models([small], ()), cards([24]), RUNTIMES[0]), Unavailable)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("qwen3:8b", True),
        ("QWEN3:8B-q8_0", True),
        ("hf.co/someone/Qwen3-8B-GGUF:Q8_0", True),
        ("qwen3", True),
        ("qwen3:80b", False),
        ("qwen3:8bit", False),
        ("notqwen3:8b", False),
    ],
)
def test_a_family_is_recognised_by_the_beginning_of_a_name(name: str, listed: bool) -> None:
    """By whole words, in any registry's spelling."""
    mine = replace(candidate("qwen3:8b"), name=name, weights_bytes=10**9)  # too small unless listed
    chosen = choose(candidate_models([mine], ()), cards([24]), RUNTIMES[0])

    assert isinstance(chosen, ModelPlan) is listed


def test_the_users_own_models_get_the_window_for_their_set() -> None:
    """Under the names they use, and with their editor and weak model counted."""
    names = {"main": "Qwen3:14B", "editor": "qwen3:8b", "weak": "qwen3:4b"}
    chosen = plan_for(names, CATALOGUE, cards([48]), RUNTIMES[0])

    assert isinstance(chosen, ModelPlan)
    assert [model.name for model in chosen.models] == ["Qwen3:14B", "qwen3:8b", "qwen3:4b"]
    models = [candidate(name) for name in names.values()]
    assert chosen.window_tokens == choose_window(models, cards([48]), RUNTIMES[0])


def test_one_model_of_the_users_does_all() -> None:
    """Without an editor and a weak model of their own there is none."""
    chosen = plan_for({"main": "qwen3:8b"}, CATALOGUE, cards([8]), RUNTIMES[1])

    assert isinstance(chosen, ModelPlan)
    assert (chosen.editor, chosen.weak) == (None, chosen.main)


@pytest.mark.parametrize(
    ("name", "why"), [("what:1b", "neither"), ("qwen3:32b", "cannot be loaded")]
)
def test_no_window_for_the_users_models_is_reported_with_the_reason(name: str, why: str) -> None:
    """An unknown one, and one that is too large."""
    chosen = plan_for({"main": name}, CATALOGUE, cards([8]), RUNTIMES[0])

    assert isinstance(chosen, Unavailable)
    assert name in chosen.reason
    assert why in chosen.reason


@given(st.integers(4096, 262_144))
def test_the_map_is_about_an_eighth_of_the_window(window: int) -> None:
    """One of three sizes, never more than a quarter, and never shrinking as the window grows."""
    size = map_tokens(window)

    assert size in (1024, 2048, 4096)
    assert size <= window / 4
    assert map_tokens(window + 1024) >= size
    assert size >= min(window // 16, 4096)


def test_a_model_of_the_catalogue_that_is_installed_is_offered_once() -> None:
    """As installed, in whatever spelling Ollama has it."""
    models = candidate_models(
        [replace(candidate("qwen3:8b"), name="Qwen3:8b")], [candidate("qwen3:8b")]
    )

    assert [(model.name, model.installed) for model in models] == [("Qwen3:8b", True)]
