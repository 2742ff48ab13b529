"""The checks before the first prompt: facts in, findings out. Nothing here reads or changes anything."""
