"""Runs Aider under guard: the user's terminal, Aider in its pty, and the loop between them."""
