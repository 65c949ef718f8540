"""Where images come from: datasets, folders, decoding, drawn faces, batches.

Owns everything between a file of an image and a batch on the device, [-1, 1]
included, and the names of datasets.
May import: `errors`.
"""
