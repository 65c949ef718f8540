"""Sets up runs from their configurations: `setup(config) -> Run`.

Only this folder takes a whole configuration and builds networks, optimisers,
state, data, evaluator and updates from it.
May import: `training`, `evaluation` and below.
"""
