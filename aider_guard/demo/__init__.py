"""A private Aider, Ollama and small model, and a guarded session on them; demo.py is where it begins."""
