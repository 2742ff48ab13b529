"""aider-guard: run Aider on local Ollama models under supervision, and leave it exactly as it was."""

import sys

__version__ = "0.2.0"

# Where httpx and structlog find rich, as in Aider's own environment, they load it with its parsers for colours that the
# guard never prints: a tenth of the processor time of its start, an eighth of its helpers'.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # what Python takes for "not to be imported"
