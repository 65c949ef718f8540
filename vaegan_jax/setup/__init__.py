"""Sets up runs from their configurations: `setup(config) -> Run`.

Owns the way from a whole configuration to networks, optimisers, state, data,
evaluator and updates.
May import: `training`, `evaluation` and below.
"""
