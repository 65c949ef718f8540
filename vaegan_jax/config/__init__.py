"""Configurations: their fields and rules, and the command line.

Owns the fields (`schema.py`), the checks, the command line (`cli.py`), reading
and writing configurations, overrides, and the grid of a study. `configs/` has
the values.
May import: `data`, `models`, `runtime` and below.
"""
