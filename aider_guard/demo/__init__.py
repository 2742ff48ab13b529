"""A private Aider, Ollama and small model, and a guarded session on them.

layout ── where the parts lie          progress ── how a long wait shows that it is alive
parts ─── built once, in place whole   commands ── run a program and say what it said
pythons ─ which Python Aider gets      aider, ollama_files, model ── the three parts
rig ───── all parts                    ollama_server ── the server, for the length of a `with`
sample ── the git repository           demo ── what `aider-guard demo` does
"""
