"""A private Aider, Ollama and small model, and a guarded session on them.

layout ── where the parts lie          progress ── how a long wait shows that it is alive
parts ─── built once, in place whole   install ─── Aider's environment; runs programs that take long
rig ───── all parts                    ollama_files, model ── the other two parts
sample ── the git repository           ollama_server ── the server, for the length of a `with`
demo ──── what `aider-guard demo` does
"""
