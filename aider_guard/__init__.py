"""aider-guard: run Aider on local Ollama models under supervision, and leave it exactly as it was."""

import sys

__version__ = "0.2.0"

# Where httpx finds rich, it loads its own command line as well: an eighth of the processor time of the helpers' start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # what Python takes for "not to be imported"
