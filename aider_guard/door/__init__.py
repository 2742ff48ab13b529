"""The door: the one way from Aider to its models."""
