"""A private Aider, Ollama and small model, and a guarded session on them.

layout ── where the parts lie          progress ── how a long wait shows that it is alive
machine ─ whether they can run here    install ─── Aider's environment; runs programs that take long
parts ─── built once, in place whole   ollama_files, model ── the other two parts
answers ─ whether the models make sense
rig ───── all parts                    ollama_server ── the server, for the length of a `with`
sample ── the git repository           removal ─── takes all of it away again
demo ──── what `aider-guard demo` does
"""
