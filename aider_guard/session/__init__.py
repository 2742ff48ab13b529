"""While Aider runs: the user's terminal, Aider in its pty, and the one loop between them."""
