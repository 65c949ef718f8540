"""From a configuration to networks, optimisers and their state.

The one room that training, evaluation and everything that opens a finished run
share; it takes the whole configuration, so that they need not.
May import: `configuration`, `data`, `models`, `runtime` and what is below them.
"""
