"""Counts the tokens of prompts: with the model's own vocabulary and template, or by learned ratios."""
