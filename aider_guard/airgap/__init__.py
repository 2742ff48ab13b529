"""The air gap: Aider and its programs can connect to the door only, and each other attempt is reported by name."""
