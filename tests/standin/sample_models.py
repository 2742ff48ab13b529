"""The models of the stand-in: one for each way in which an Ollama of today makes a prompt, on two kinds of vocabulary.

| name | prompts are made by | vocabulary | attention |
|---|---|---|---|
| small, small-q4 | a template in Go | BPE | full |
| coder | code of Ollama's own (RENDERER qwen3-coder) | BPE | full |
| jinja | the template in its file, which llama.cpp reads | BPE | full |
| gemma | a template in Go | SentencePiece | sliding, 512 tokens |
| gemma-jinja | the template in its file | SentencePiece | sliding, 512 tokens |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aider_guard.demo.layout import SMALL
from aider_guard.demo.model import GEMMA_SHA256, PARAMETERS, ensure_gemma
from standin.gguf_file import rewritten
from standin.models import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig

CODER, JINJA, GEMMA, GEMMA_JINJA = "coder", "jinja", "gemma", "gemma-jinja"
CHATML_JINJA: Final = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
GEMMA_TEMPLATE: Final = (
    '{{ range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n'
    "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n"
)
GEMMA_IN_JINJA: Final = (
    "{{- bos_token }}{%- for message in messages %}{{- '<start_of_turn>' }}"
    "{{- 'model' if message.role == 'assistant' else 'user' }}"
    "{{- '\\n' + message.content + '<end_of_turn>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
)
_GEMMA_PARAMETERS: Final = {"stop": ["<end_of_turn>"]}


def add_coder(models: Path, base: str = SMALL) -> str:
    """Make the model whose prompts Ollama's own code makes; its name."""
    ModelStore(models).create(CODER, {"from": base, "renderer": "qwen3-coder"})
    return CODER


def add_jinja(models: Path, template: str = CHATML_JINJA, layers: int | None = None) -> str:
    """Make a model of the small one's weights whose prompts the template in its file makes; its name."""
    store = ModelStore(models)
    small = store.find(SMALL)
    assert small is not None
    digest = store.add_blob(rewritten(small.file, template=template, layers=layers))
    store.create(JINJA, {"files": {"model.gguf": digest}, "parameters": PARAMETERS})
    return JINJA


def add_gemma(models: Path, rig: Rig, layers: int | None = None) -> str:
    """Make the model with a vocabulary of SentencePiece's and a template in Go; its name."""
    store, file = ModelStore(models), ensure_gemma(rig)
    digest = f"sha256:{GEMMA_SHA256}"
    if layers is not None:
        digest = store.add_blob(rewritten(file, layers=layers))
    elif not store.blob(digest).exists():
        store.blob(digest).symlink_to(file)
    body = {"template": GEMMA_TEMPLATE, "parameters": _GEMMA_PARAMETERS}
    store.create(GEMMA, {"files": {"model.gguf": digest}, **body})
    return GEMMA


def add_gemma_jinja(models: Path, rig: Rig, layers: int | None = None) -> str:
    """Make the same with the template in its file; its name."""
    store = ModelStore(models)
    content = rewritten(ensure_gemma(rig), template=GEMMA_IN_JINJA, layers=layers)
    body = {"files": {"model.gguf": store.add_blob(content)}, "parameters": _GEMMA_PARAMETERS}
    store.create(GEMMA_JINJA, body)
    return GEMMA_JINJA
