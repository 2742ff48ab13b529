"""Before Aider starts: which Aider, what it will use, and what the session adds."""
