"""The folder that goes on ``PYTHONPATH`` so that the package ``aider`` in it is the one that a script runs."""
