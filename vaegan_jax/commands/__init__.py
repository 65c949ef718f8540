"""What `main.py` can be asked to do, one file a mode.

Owns what each mode reads, writes and prints: it takes the configurations and
hands plain values down. `dispatch.py` chooses; modes share `runs.py`.
May import: everything but `main.py`.
"""
