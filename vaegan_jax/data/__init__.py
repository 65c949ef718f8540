"""Sources of examples, decoding, splits, batches.

Owns everything from a file of an image, an array or a sound to a batch on the
device in [-1, 1], and the names of data sets.
May import: `errors`.
"""
