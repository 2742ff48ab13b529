"""A stand-in for an Ollama of today (0.30 to 0.35): its API, made again, over a real llama.cpp."""
