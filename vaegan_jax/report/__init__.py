"""The page of a run, or of several: one HTML file that needs nothing else.

Owns what is on the page and how it looks and behaves. May import: `evaluation`
and what is below it.
"""
