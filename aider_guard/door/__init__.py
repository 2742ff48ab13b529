"""The door: the HTTP proxy between Aider and its models, and Aider's only way to them."""
