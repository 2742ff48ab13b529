"""What llama.cpp and Ollama logged of the memory of models, and where each line is from; docs/fit.md has the table.

``HEADER`` rows are from llama.cpp itself (b11549, the wheel ``xllamacpp``), started on a file with a model's own header
and weights of zeros, on a CPU. There the graph also has the input row, which is in main memory with a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from aider_guard.catalogue import find
from aider_guard.core.architecture import Architecture
from aider_guard.core.model_memory import (
    MIB,
    KvType,
    Runtime,
    graph_bytes,
    kv_bytes,
    weights_on_card,
)

HEADER: Final = "header"
KALSA: Final = "https://github.com/Aspis0/kalsa (b10950, Metal)"
WAIRED: Final = (
    "https://github.com/waired-ai/waired-agent/blob/main/docs/knowledges/20260914/"
    "1230-llamacpp-fit-memory-terms.md"
)
UNADDRESSED: Final = "log"


@dataclass(frozen=True)
class LoggedMemory:
    """One load: the model by its name in the catalogue, how it was run, and what was logged, in MiB.

    ``cache`` is all caches and states; ``graph`` the compute buffers on the card, and ``weights`` the model buffer
    there, None where the log does not say them. ``all_logits`` is for builds of before June 2026.
    """

    model: str
    num_ctx: int
    batch: int
    kv: KvType
    cache: float
    graph: float | None
    source: str
    draft: int = 0
    slots: int = 1
    weights: float | None = None
    all_logits: bool = False

    @property
    def runtime(self) -> Runtime:
        """How it was run."""
        return Runtime(
            "C",
            self.kv,
            self.slots,
            batch_tokens=self.batch,
            reserves_all_logits=self.all_logits,
        )

    @property
    def architecture(self) -> Architecture:
        """The model's, without its tower for pictures: its graph is in none of these lines."""
        entry = find(self.model)
        assert entry is not None, self.model
        return replace(entry.architecture, draft_tokens=self.draft, has_vision=False)

    @property
    def computed(self) -> tuple[float, float | None, float | None]:
        """What fit computes for the same three, in MiB; the graph and the weights only where they were logged."""
        entry = find(self.model)
        assert entry is not None, self.model
        model = replace(entry.candidate, architecture=self.architecture)
        cache = kv_bytes(self.architecture, self.num_ctx, self.runtime) / MIB
        graph = graph_bytes(self.architecture, self.num_ctx, self.runtime) / MIB
        weights = weights_on_card(model) / MIB
        return (
            cache,
            None if self.graph is None else graph,
            None if self.weights is None else weights,
        )

    @property
    def error_percent(self) -> float:
        """How much more is computed than was logged, of all that was logged."""
        logged = self.cache + (self.graph or 0) + (self.weights or 0)
        return (sum(part or 0 for part in self.computed) / logged - 1) * 100


UD_Q3: Final = "hf.co/unsloth/Qwen3.8-27B-GGUF:UD-Q3_K_XL"
UD_Q4: Final = "hf.co/unsloth/Qwen3.8-27B-GGUF:UD-Q4_K_XL"
E4B: Final = "gemma4:e4b"

LOGGED: Final = (
    LoggedMemory(UD_Q3, 200_704, 512, "q8_0", 6664 + 149.62, 1060, WAIRED, weights=12_559),
    LoggedMemory("qwen3.8:27b", 200_704, 512, "q4_0", 3528 + 748.12 + 784, None, WAIRED, draft=4),
    LoggedMemory(
        "qwen3.8:27b", 32_768, 2048, "f16", 2624.88, 664.18 + 520.06, UNADDRESSED, draft=2
    ),
    LoggedMemory("qwen3.8:27b", 262_144, 512, "f16", 18_455.38, None, UNADDRESSED, draft=6),
    LoggedMemory("qwen3.6:27b", 24_576, 512, "f16", 1536 + 149.62, None, UNADDRESSED),
    LoggedMemory("qwen3.6:27b", 200_192, 512, "q8_0", 6647 + 149.62, None, UNADDRESSED),
    LoggedMemory("qwen3.8:27b", 32_768, 1024, "f16", 2924.12, 368.05 + 260.04, HEADER, draft=4),
    LoggedMemory(UD_Q4, 32_768, 512, "f16", 2197.62, 184.02, HEADER),
    LoggedMemory("qwen3.8:27b", 65_536, 512, "q8_0", 3180.12, None, HEADER, draft=4),
    LoggedMemory("qwen3.6:35b", 54_784, 512, "f16", 1070 + 62.81, None, UNADDRESSED),
    LoggedMemory("qwen3.6:35b", 32_768, 1024, "f16", 702.81, 216.05, HEADER),
    LoggedMemory("qwen3.5:9b", 8192, 512, "f16", 256 + 50.25, None, UNADDRESSED),
    LoggedMemory("qwen3.5:9b", 32_768, 1024, "f16", 1074.25, 288.05, HEADER),
    LoggedMemory("qwen3.5:4b", 32_768, 1024, "f16", 1074.25, 222.05, HEADER),
    LoggedMemory("nemotron-3-nano:30b", 32_768, 1024, "f16", 192 + 47.62, 223.03, HEADER),
    LoggedMemory("gemma4:12b", 8192, 512, "q8_0", 68 + 255, 138.31, HEADER),
    LoggedMemory("gemma4:12b", 4096, 512, "q8_0", 34 + 255, 127.80, KALSA),
    LoggedMemory("gemma4:12b", 16_384, 512, "q8_0", 136 + 255, 139.80, KALSA),
    LoggedMemory("gemma4:12b", 16_384, 1024, "q8_0", 136 + 340, 279.32, KALSA),
    LoggedMemory("gemma4:12b", 16_384, 2048, "q8_0", 136 + 510, 561.35, KALSA),
    LoggedMemory("gemma4:12b", 98_304, 512, "q8_0", 816 + 255, None, UNADDRESSED),
    LoggedMemory("gemma4:12b", 4096, 512, "f16", 128 + 960, None, UNADDRESSED, slots=2),
    LoggedMemory("gemma4:12b", 131_072, 512, "f16", 2048 + 480, 257.03, HEADER),
    LoggedMemory("gemma4:31b", 32_768, 512, "f16", 2560 + 1200, 212.03, HEADER),
    LoggedMemory("gemma4:26b", 262_144, 512, "q8_0", 2720 + 159.38, None, UNADDRESSED),
    LoggedMemory("gemma4:26b", 32_768, 1024, "f16", 640 + 400, 277.05, HEADER),
    LoggedMemory(
        E4B,
        131_072,
        512,
        "f16",
        2048 + 40,
        None,
        "https://github.com/ggml-org/llama.cpp/issues/21730",
    ),
    LoggedMemory(E4B, 32_768, 1024, "f16", 512 + 60, 281.06, HEADER),
    LoggedMemory("gpt-oss:20b", 8192, 128, "q8_0", 102 + 3.19, None, UNADDRESSED),
    LoggedMemory(
        "gpt-oss:20b",
        131_072,
        512,
        "f16",
        3072 + 18,
        None,
        "https://github.com/ikawrakow/ik_llama.cpp/issues/822",
    ),
    LoggedMemory("gpt-oss:20b", 32_768, 1024, "f16", 768 + 30, 257.80, HEADER),
    LoggedMemory("qwen3-coder:30b", 32_768, 1024, "f16", 3072, 240.04, HEADER),
    LoggedMemory("glm-4.7-flash", 32_768, 1024, "f16", 1692, 224.03, HEADER),
    LoggedMemory("devstral:24b", 16_384, 1024, "f16", 2560, 516.04, HEADER),
    LoggedMemory("qwen3:8b", 16_384, 1024, "f16", 2304, 256.04, HEADER),
    LoggedMemory(
        "qwen3:4b-q4_K_M", 8192, 512, "f16", 1152, 85.01, UNADDRESSED + " (CUDA)", weights=2375.91
    ),
    LoggedMemory(
        "deepseek-coder-v2:236b",
        8192,
        512,
        "f16",
        38_400,
        None,
        "https://github.com/ollama/ollama/issues/7548",
    ),
    LoggedMemory(
        "gpt-oss:20b",
        131_072,
        512,
        "f16",
        3072 + 18,
        420.08,
        UNADDRESSED + " (Metal; room for all logits)",
        all_logits=True,
    ),
    LoggedMemory(
        "qwen3.8:27b",
        262_144,
        512,
        "f16",
        18_455.38,
        976,
        UNADDRESSED + " (room for all logits)",
        draft=6,
        all_logits=True,
    ),
)


def markdown_table(rows: tuple[LoggedMemory, ...]) -> str:
    """The rows as docs/fit.md has them: logged and computed MiB, and the difference of all that was logged."""
    lines = [
        "| model | window | batch | cache | logged: cache, graph, weights | computed | difference | from |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        more = f", {row.slots} slots" if row.slots > 1 else ""
        more += f", draft of {row.draft}" if row.draft else ""
        logged = (row.cache, row.graph, row.weights)
        cells = (
            f"`{row.model}`{more}",
            f"{row.num_ctx:,}",
            f"{row.batch:,}",
            row.kv,
            ", ".join(f"{part:,.0f}" for part in logged if part is not None),
            ", ".join(f"{part:,.0f}" for part in row.computed if part is not None),
            f"{row.error_percent:+.1f} %",
            row.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
