"""The base of a run: checkpoints, processes, signals, the lock, the records.

Owns everything that survives or reports a fault, for any kind of state.
May import: `names`, `errors`.
"""
