"""What finished, or running, networks are worth: measured, drawn and used.

Owns the metrics, the evaluator, the figures and style transfer.
May import: `experiment` and what is below it; never the training.
"""
