"""The checks before the first prompt: pure functions from facts to findings."""
