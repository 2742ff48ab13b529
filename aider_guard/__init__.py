"""aider-guard: run Aider on local Ollama models under supervision, and leave it exactly as it was."""

__version__ = "0.2.0"
