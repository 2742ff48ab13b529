"""Requests to models and their answers, as the door handles them: pure values and rules."""
