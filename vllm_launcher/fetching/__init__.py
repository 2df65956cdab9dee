"""What a server needs on disk: its engine's environment and its weights.

``install.py`` and ``weights.py`` are the ways in.
"""
