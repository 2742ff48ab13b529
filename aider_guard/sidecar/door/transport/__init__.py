"""The way through: HTTP in from Aider, HTTP out to its models. It carries bytes and knows no model."""
