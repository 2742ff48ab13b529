"""``aider-guard fit``: the answer on one screen and as JSON, with a server and without one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.ollama_server import FakeModel, FakeOllama, Raw
from ollama.gguf_files import write_gguf

from aider_guard.config import Config
from aider_guard.core.model_memory import HOST_PROMPT_CACHE_BYTES, KvType
from aider_guard.core.readings import (
    INTEGRATED_INTEL,
    Gpu,
    GpuProcess,
    MemoryReading,
    RamReading,
    Unavailable,
)
from aider_guard.errors import ConfigError
from aider_guard.view.fit import run_fit
from aider_guard.view.fit_models import named_cards, plain_name

GIB = 1 << 30
NO_SERVER = "http://127.0.0.1:1"
CONTRACT = ("name", "weights_bytes", "kv_bytes", "graph_bytes", "overhead_bytes", "total_bytes")

Fit = Callable[..., tuple[int, str]]


def no_memory() -> MemoryReading:
    """A card that is named is taken as it is: nothing is measured."""
    raise AssertionError("the memory was read")


UNTOLD = Unavailable("macOS does not tell it")
RAM = RamReading(32 * GIB, 20 * GIB, GIB)


def memory(*gpus: Gpu) -> Callable[[], MemoryReading]:
    """A machine with these GPUs."""
    result = gpus or Unavailable("no NVIDIA driver is installed")
    return lambda: MemoryReading(result, RAM, 0.0)


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Runs the command without a server; gives the exit status and what was printed."""

    def run(*models: str, server: str = NO_SERVER, **options: Any) -> tuple[int, str]:
        out = io.StringIO()
        given = {"memory": no_memory, "state_dir": tmp_path, **options}
        environment = {"OLLAMA_API_BASE": server}
        status = run_fit(Config(), models, environment=environment, out=out, **given)
        return status, out.getvalue()

    return run


def data(answer: tuple[int, str]) -> dict[str, Any]:
    status, text = answer
    result: dict[str, Any] = json.loads(text)
    assert status == (0 if result["fits"] else 1)
    return result


# Without a server


def test_a_file_is_read_by_its_header(fit: Fit, tmp_path: Path) -> None:
    """Before it is installed: alone, and beside a model of the catalogue; its name is the file's."""
    path = write_gguf(tmp_path / "smol.gguf", size_bytes=140 << 20)
    status, text = fit(str(path), vram=["8"])
    assert status == 0
    assert "smol.gguf" in text
    assert "largest window: 8,192 tokens" in text

    result = data(fit(str(path), "qwen3:8b", str(path), vram=["24"], as_json=True))
    file, other = result["models"]
    assert (file["name"], other["name"]) == ("smol.gguf", "qwen3:8b")
    assert file["main_memory_bytes"] == 576 * 49_152 * 34 // 32
    assert file["weights_bytes"] + file["main_memory_bytes"] == 140 << 20
    assert (file["source"], file["exact"]) == (f"the header of {path}", True)
    assert result["host_prompt_cache_bytes"] == 2 * HOST_PROMPT_CACHE_BYTES


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.gguf", "cannot be read: No such file"), ("~/none.GGUF", "No such file")],
)
def test_a_file_that_is_none_is_one_sentence(fit: Fit, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        fit(name, vram=["8"])
    assert "give a language model's GGUF file" in str(caught.value)


def test_a_file_of_hugging_face_is_a_name(fit: Fit) -> None:
    """Ollama pulls such files by their names."""
    with pytest.raises(ConfigError, match="is not in the catalogue"):
        fit("hf.co/someone/Some-GGUF:some-q4.gguf", vram=["8"])


def test_what_may_be_in_main_memory_is_said(fit: Fit) -> None:
    """From 0.30 on each model's process keeps earlier prompts there."""
    assert "may keep 8.0 GiB of earlier prompts in main memory" in fit("qwen3:8b", vram=["16"])[1]


def test_a_model_that_fits_a_named_card(fit: Fit) -> None:
    """qwen3:8b on 16 GiB: exit 0, its numbers in one row, and the largest window."""
    status, text = fit("qwen3:8b", vram=["16"])

    assert status == 0
    assert "card    16 GiB  (Ollama leaves 1.0 GiB of it unused)" in text
    assert "it fits: " in text
    assert "largest window: 40,960 tokens" in text


def test_a_tight_fit_is_called_tight(fit: Fit) -> None:
    """The largest window fills the card: a desktop that takes more would push layers to the CPU."""
    assert "it fits, but it is tight: 6.9 GiB of 7.0 GiB" in fit("qwen3:8b", vram=("8",))[1]
    assert "tight" not in fit("qwen3:8b", vram=("16",))[1]


def test_what_an_owner_of_16_gb_needs_to_know(fit: Fit) -> None:
    """30b-a3b at four bits: 18.4 GB of weights do not fit, its few experts change nothing, and 20b fits instead."""
    status, text = fit("qwen3:30b-a3b", vram=["16"])
    instead = [line.split()[0] for line in text.partition("these fit instead")[2].splitlines()[1:]]

    assert status == 1
    assert "qwen3:30b-a3b does not fit" in text
    assert "its weights alone are 17.1 GiB (18.4 GB)" in text
    assert "only 8 of its 128 experts work on a token, but all must be in memory" in text
    assert "largest window: none" in text
    assert "gpt-oss:20b" in instead
    assert not any("30b" in name for name in instead)
    assert len(text.splitlines()) <= 24


def test_what_is_offered_instead_does_fit(fit: Fit) -> None:
    """Each model that is named fits with the window that is named, and not with a larger one."""
    result = data(fit("qwen3:32b", vram=["12"], as_json=True))

    assert result["instead"]
    for model in result["instead"]:
        again = data(fit(model["name"], vram=["12"], as_json=True))
        assert again["largest_num_ctx"] == model["largest_num_ctx"] >= 4096


def test_what_is_offered_instead_has_the_window_that_was_asked_for(fit: Fit) -> None:
    """Where only the window is too large, others are named that have it, and not the model itself."""
    result = data(fit("qwen3:8b", vram=["8"], num_ctx=16_384, as_json=True))

    assert 4096 <= result["largest_num_ctx"] < 16_384
    assert result["instead"]
    assert all(model["largest_num_ctx"] >= 16_384 for model in result["instead"])
    assert "qwen3:8b" not in [model["name"] for model in result["instead"]]
    smaller = data(fit("qwen3:8b", vram=["8"], num_ctx=result["largest_num_ctx"], as_json=True))
    assert smaller["fits"]


def test_what_was_asked_for_is_not_offered_again(fit: Fit) -> None:
    """The one of two that fits is no news."""
    result = data(fit("qwen3:32b", "qwen3:14b-q4_K_M", vram=["16"], as_json=True))
    assert result["instead"]
    assert "qwen3:14b" not in [model["name"] for model in result["instead"]]


def test_the_json_has_the_promised_shape(fit: Fit) -> None:
    """The keys of the contract, whose sums are right; more keys beside them."""
    result = data(fit("qwen3:14b", "qwen3:4b", vram=["24"], num_ctx=16_384, as_json=True))

    assert list(result)[:5] == ["fits", "vram_bytes", "num_ctx", "largest_num_ctx", "models"]
    assert (result["vram_bytes"], result["num_ctx"]) == (24 * GIB, 16_384)
    assert result["usable_bytes"] == 23 * GIB
    for row in result["models"]:
        assert tuple(row)[:6] == CONTRACT
        assert row["total_bytes"] == sum(row[key] for key in CONTRACT[1:5])
        assert row["source"].startswith("https://")
    assert result["together_bytes"] == sum(row["total_bytes"] for row in result["models"])


def test_a_set_that_fits_one_at_a_time(fit: Fit) -> None:
    """Exit 1: what each hand-over loads, with seconds that are called an estimate."""
    status, text = fit("qwen3:30b-a3b-q4_K_M", "qwen3:8b", vram=["24"], num_ctx=32_768)

    assert status == 1
    assert "they fit only one at a time" in text
    assert "qwen3:8b: 4.9 GiB to load, about 3 s" in text
    assert "an estimate" in text
    assert "these fit instead" not in text


def test_two_cards_hold_more_than_one(fit: Fit) -> None:
    """2x24 is two cards; the weights of one model lie on both."""
    assert fit("qwen3:32b-q8_0", vram=["24"])[0] == 1
    assert fit("qwen3:32b-q8_0", vram=["2x24"])[0] == 0
    assert fit("qwen3:32b-q8_0", vram=["24", "24"]) == fit("qwen3:32b-q8_0", vram=["2 x 24"])


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_narrower_cache_allows_a_larger_window(fit: Fit, kind: KvType) -> None:
    """The type that is asked for is that of the answer."""
    wide = data(fit("qwen3:8b", vram=["8"], as_json=True))
    narrow = data(fit("qwen3:8b", vram=["8"], kv=kind, as_json=True))

    assert narrow["kv_type"] == narrow["models"][0]["kv_type"] == kind
    assert narrow["largest_num_ctx"] > wide["largest_num_ctx"]


def test_names_as_aider_writes_them(fit: Fit) -> None:
    """The providers' prefixes are not part of a name, and a name twice is one model."""
    assert fit("ollama_chat/qwen3:8b", "ollama/qwen3:8b", vram=["16"]) == fit(
        "qwen3:8b", vram=["16"]
    )


def test_two_names_of_one_file_count_once(fit: Fit) -> None:
    """One row, and a line that says so."""
    result = data(fit("qwen3:8b", "qwen3:8b-q4_K_M", vram=["16"], as_json=True))
    _, text = fit("qwen3:8b", "qwen3:8b-q4_K_M", vram=["16"])

    assert [row["also"] for row in result["models"]] == [["qwen3:8b-q4_K_M"]]
    assert "qwen3:8b, qwen3:8b-q4_K_M are the same file, which is loaded once" in text


def test_a_window_beyond_the_trained_context_is_reported(fit: Fit) -> None:
    """Ollama loads no more than the model was trained for."""
    _, text = fit("qwen3:8b", vram=["24"], num_ctx=100_000)
    assert "qwen3:8b was trained for 40,960 tokens: Ollama loads no more" in text


def test_a_rough_size_is_called_rough(fit: Fit) -> None:
    """Sizes that are not published to the byte are no facts."""
    assert "only approximate" in fit("deepseek-coder-v2:236b", vram=["24"])[1]
    assert "only approximate" not in fit("qwen3:8b", vram=["24"])[1]


# What cannot be answered


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3:14", "qwen3:14b"),
        ("qwen3:9b", "qwen3:8b"),
        ("gemma4:27b", "gemma4:26b"),
        ("qwen3:14", r"give the file: aider-guard fit FILE\.gguf"),
        ("gpt-oss:120b-cloud", "runs in Ollama's cloud"),
        ("gpt-oss: cloud", "runs in Ollama's cloud"),
        ("gpt oss", "is not a name that Ollama accepts"),
        ("ollama_chat/", "a model needs a name"),
    ],
)
def test_an_unknown_model_is_one_sentence(fit: Fit, name: str, said: str) -> None:
    """It names the nearest ones that are known, and ends as bad input does."""
    with pytest.raises(ConfigError, match=said) as caught:
        fit(name, vram=["16"])
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "size", ["", "0", "-1", "abc", "16,5", "0x16", "99x16", "2000", "1e3", "nan"]
)
def test_a_card_that_is_none_is_refused(fit: Fit, size: str) -> None:
    """The sentence shows what is taken."""
    with pytest.raises(ConfigError, match="takes a card's memory in GiB"):
        fit("qwen3:8b", vram=[size])


def test_cards_by_their_size() -> None:
    """Whole and broken numbers, units, several at once; all of a named card is free."""
    sizes = [card.free_bytes / GIB for card in named_cards(["16", "2x24", "11.5 GiB", "8gb"])]
    assert sizes == [16, 24, 24, 11.5, 8]
    assert [card.name for card in named_cards(["11.5"])] == ["11.5 GiB"]


def test_without_a_card_the_flag_is_named(fit: Fit) -> None:
    """No GPU, a driver that does not answer: one sentence each, with the flag that helps."""
    with pytest.raises(ConfigError, match=r"no GPU was found here \(no .*\); give .* --vram 16"):
        fit("qwen3:8b", memory=memory())
    silent = Unavailable("the NVIDIA driver does not answer")
    with pytest.raises(ConfigError, match="the NVIDIA driver does not answer; give"):
        fit("qwen3:8b", memory=lambda: MemoryReading(silent, silent, 0.0))


def test_without_a_model_one_is_asked_for(fit: Fit) -> None:
    """An empty command is no crash."""
    with pytest.raises(ConfigError, match="at least one model"):
        fit(vram=["16"])


def test_a_name_keeps_what_is_no_prefix() -> None:
    """Hosts and namespaces belong to the name."""
    assert plain_name("ollama_chat/hf.co/unsloth/Qwen3-8B-GGUF:IQ4_XS").startswith("hf.co/")


# With a server


def test_an_installed_model_is_looked_up(fit: Fit) -> None:
    """Its own size and architecture are taken, also where the catalogue has the name."""
    with FakeOllama(
        version="0.30.11", models=(FakeModel("qwen3:8b", size_bytes=6 * GIB),)
    ) as ollama:
        result = data(fit("qwen3:8b", vram=["16"], server=ollama.url, as_json=True))

    (row,) = result["models"]
    assert row["weights_bytes"] == 6 * GIB
    assert row["source"] == "installed in Ollama"


def test_a_model_that_is_not_installed_is_looked_up_in_the_catalogue(fit: Fit) -> None:
    """Before a download of gigabytes."""
    with FakeOllama(version="0.30.11") as ollama:
        result = data(fit("qwen3:32b", "qwen3:8b", vram=["48"], server=ollama.url, as_json=True))

    assert [row["source"][:5] for row in result["models"]] == ["https", "insta"]


def test_installed_names_are_among_the_nearest(fit: Fit) -> None:
    """What the user has comes first."""
    with (
        FakeOllama(version="0.30.11", models=(FakeModel("mycoder:7b"),)) as ollama,
        pytest.raises(ConfigError, match=r"neither installed nor in the catalogue; .* mycoder:7b"),
    ):
        fit("mycoder:8b", vram=["16"], server=ollama.url)


def test_a_stub_runs_elsewhere(fit: Fit) -> None:
    """A local name whose model runs on another machine is on no card."""
    stub = FakeModel("mine:latest", remote_host="https://ollama.com:443")
    with (
        FakeOllama(version="0.30.11", models=(stub,)) as ollama,
        pytest.raises(ConfigError, match=r"^mine runs on https://ollama\.com:443, not on a card$"),
    ):
        fit("mine", vram=["16"], server=ollama.url)


def test_an_architecture_that_is_not_known_is_reported(fit: Fit) -> None:
    """An installed model whose numbers are garbage, and that the catalogue does not know."""
    strange = FakeModel("odd:1b", facts={"general.architecture": "odd", "odd.block_count": "many"})
    with (
        FakeOllama(version="0.30.11", models=(strange,)) as ollama,
        pytest.raises(ConfigError, match="odd:1b is installed, but"),
    ):
        fit("odd:1b", vram=["16"], server=ollama.url)


def test_garbage_from_ollama_is_not_fatal(fit: Fit) -> None:
    """The catalogue answers then."""
    with FakeOllama(version="0.30.11") as ollama:
        ollama.answers.update(dict.fromkeys(("/api/show", "/api/tags"), Raw(b"<html>")))
        assert fit("qwen3:8b", vram=["16"], server=ollama.url)[0] == 0


def test_an_old_ollama_has_no_flash_attention_and_fills_the_card(fit: Fit) -> None:
    """Models are computed as this server would run them, and the page says so."""
    with FakeOllama(version="0.9.3") as ollama:
        status, text = fit("qwen3:14b", vram=["16"], kv="q8_0", server=ollama.url)

    assert status == 0
    assert "up to 0.11.10" in text
    assert "left free" not in text
    assert "qwen3:14b has its cache in f16: flash attention is off, and q8_0 needs it" in text


def test_the_cards_of_this_machine_without_what_others_hold(fit: Fit) -> None:
    """Another program's 10 GiB are not free; what Ollama holds itself is."""
    others = GpuProcess(1, "game", 10 * GIB, is_ollama=False)
    own = GpuProcess(2, "ollama", 4 * GIB, is_ollama=True)
    gpu = Gpu(0, "RTX 4090", 24 * GIB, 14 * GIB, (others, own))
    with FakeOllama(version="0.30.11", loaded=["qwen3:8b"]) as ollama:
        result = data(fit("qwen3:8b", memory=memory(gpu), server=ollama.url, as_json=True))
        _, text = fit("qwen3:8b", memory=memory(gpu), server=ollama.url)

    free = {"total_bytes": 24 * GIB, "free_bytes": 14 * GIB}
    assert result["cards"] == [{"name": "RTX 4090", **free, "shares_main_memory": False}]
    assert "card    RTX 4090  (14.0 GiB free, Ollama leaves 1.0 GiB of it unused)" in text


def test_a_gpu_that_shares_the_main_memory_is_told_apart(fit: Fit) -> None:
    """It has what is left of that, and counts only where this Ollama may use it."""
    apple = Gpu(0, "Apple M2 Max", 24 * GIB, UNTOLD, UNTOLD, shares_main_memory=True)
    result = data(fit("qwen3:8b", memory=memory(apple), as_json=True))
    _, text = fit("qwen3:8b", memory=memory(apple))

    (card,) = result["cards"]
    assert card["free_bytes"] == 20 * GIB - 32 * GIB // 10
    assert card["shares_main_memory"]
    assert "card    Apple M2 Max  (it shares the main memory, 16.8 GiB free," in text

    on_cpu = FakeModel("qwen3:8b", vram_bytes=0)
    with (
        FakeOllama(version="0.30.11", models=(on_cpu,), loaded=[on_cpu.name]) as ollama,
        pytest.raises(
            ConfigError, match=r"no memory of its own; give the part of the .* --vram 16"
        ),
    ):
        fit("qwen3:8b", memory=memory(apple), server=ollama.url)
    with pytest.raises(ConfigError, match=r"no memory of its own; give the part"):
        fit("qwen3:8b", memory=lambda: MemoryReading(INTEGRATED_INTEL, RAM, 0.0))


def test_names_that_move_the_cursor_are_printed_harmlessly(fit: Fit) -> None:
    """A GPU's name is a text from elsewhere."""
    gpu = Gpu(0, "evil\x1b[2J", 24 * GIB, 0, ())
    _, text = fit("qwen3:8b", memory=memory(gpu))
    assert "\x1b" not in text


def test_what_was_learned_of_a_model_counts(fit: Fit, tmp_path: Path) -> None:
    """A model that was measured to need 1 GiB more needs it here, too."""
    with FakeOllama(version="0.30.11") as ollama:
        before = data(fit("qwen3:8b", vram=["16"], server=ollama.url, as_json=True))
        (tmp_path / "needs.json").write_text(json.dumps({"qwen3:8b": GIB}))
        after = data(
            fit("qwen3:8b", vram=["16"], num_ctx=before["num_ctx"], server=ollama.url, as_json=True)
        )

    more = after["models"][0]["overhead_bytes"] - before["models"][0]["overhead_bytes"]
    assert more == GIB


# The page on it


def test_the_examples_in_the_documentation_are_what_is_printed(fit: Fit) -> None:
    """docs/fit.md shows the command and its answer, word for word."""
    text = (Path(__file__).parents[2] / "docs/fit.md").read_text(encoding="utf-8")
    examples = re.findall(
        r"^```\n\$ aider-guard fit ([^\n]*) --vram (\S+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )

    assert len(examples) == 2
    for models, card, printed in examples:
        assert fit(*models.split(), vram=[card])[1] == printed


def test_every_key_of_the_json_is_documented(fit: Fit) -> None:
    """The table in docs/fit.md has all keys, those of lists too."""
    text = (Path(__file__).parents[2] / "docs/fit.md").read_text(encoding="utf-8")
    table = text.partition("## The answer as JSON")[2]
    named = set(re.findall(r"`(?:\w+\[\]\.)?(\w+)`", table))
    result = data(fit("qwen3:32b", "qwen3:8b", vram=["24"], num_ctx=40_960, as_json=True))
    more = data(fit("qwen3:32b", vram=["16"], as_json=True))
    lists = (result["models"], result["cards"], result["hand_overs"], more["instead"])
    rows = [row for rows in lists for row in rows[:1]]

    assert len(rows) == len(lists)
    assert {key for each in (result, *rows) for key in each} - {
        "models",
        "cards",
        "hand_overs",
        "instead",
    } <= named
