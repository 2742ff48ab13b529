"""What Ollama is: its names, models, processes, settings and log, and a client for its API."""
