"""Stand-ins for what cannot run everywhere: other versions of Ollama, and an NVIDIA driver."""
