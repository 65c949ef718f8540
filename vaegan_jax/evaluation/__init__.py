"""Scores and figures of a run's held-out examples.

Owns metrics, the evaluator, figures and tables. May import: `config` and what
is below it.
"""
