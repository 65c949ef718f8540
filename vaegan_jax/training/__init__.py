"""The update and its parts, its wrappers, the health checks, and the loop.

Owns how networks are trained. `update.py` is the method; each option is in the
module that is named after it, and `build.py` puts them together.
May import: `evaluation` and what is below it.
"""
