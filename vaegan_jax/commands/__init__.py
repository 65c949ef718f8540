"""The commands of `main.py`, one file each.

Owns what each command reads, writes and prints. `dispatch.py` selects one.
May import: everything but `main.py`.
"""
