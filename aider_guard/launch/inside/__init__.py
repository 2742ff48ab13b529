"""Modules that run in Aider's own process to describe Aider. Standard library and Aider only; Python 3.9 or later.

launch/inside_aider.py loads this package by its file under a name of its own, so that nothing else of the guard's
installation can be imported there.
"""
