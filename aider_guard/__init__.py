"""aider-guard: run Aider on local Ollama models under supervision, and leave it exactly as it was."""

import sys

__version__ = "0.2.0"

# httpx and structlog load rich where it is installed, as beside Aider, and pygments with it. The guard uses neither:
# they take a tenth of the processor time of its start, and of its helpers'.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # what Python takes for "not to be imported"
