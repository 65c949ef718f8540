"""Sources of examples, decoding, splits, batches.

Owns everything from a file of an image, an array or a sound to a batch on the
device in [-1, 1], and the names of data sets.

`split.load_splits` opens the source that `data.name` names, a file of
`sources/`. It returns a `source.Dataset`, whose stored examples are read by
split and index: of TFDS (`tfds_dataset.py`), computed (`synthetic.py`), the
files of a folder (`folder.py`, with `image_files.py` or `array_files.py`), or
numbered in a `store.Store` (`indexed.py`). A split decodes them, once if they
are cached (`cache.py`); crops are read where they are (`whole_arrays.py`).
`batches.create_batches` orders them, and `pixels.py` makes them floats.

May import: `errors`.
"""
