"""The air gap: Aider and everything it starts reach the door and nothing else, and every attempt is named."""
