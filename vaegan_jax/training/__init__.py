"""The update and its parts, what is done around it, health, and the loop.

Owns how networks change. `update.py` is the method; each option is in the room
that is named after it, and `assemble.py` puts them together.
May import: `evaluation`, `experiment` and what is below them.
"""
