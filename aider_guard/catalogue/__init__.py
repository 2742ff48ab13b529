"""Models that are known without a server: catalogue.json, and what reads it."""
