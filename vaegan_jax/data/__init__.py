"""Where examples come from: datasets, folders, decoding, drawings, batches.

Owns everything between a file of an image, an array or a sound and a batch on
the device, [-1, 1] included, and the names of datasets.
May import: `errors`.
"""
