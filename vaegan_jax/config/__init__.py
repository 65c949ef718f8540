"""What may be asked for: the rules of every field, and how a mistake is told.

Owns the command line (`cli.py`), reading and writing configurations,
overrides, and the grid of a study. What the fields are is in `configs/`.
May import: `errors`. It imports nothing of JAX itself: nothing here computes.
"""
