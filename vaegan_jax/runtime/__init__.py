"""What a run stands on: checkpoints, processes, signals, the lock, the records.

Owns everything that survives a fault or reports one, for any kind of state.
May import: `errors`.
"""
