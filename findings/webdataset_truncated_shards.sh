#!/usr/bin/env bash
# webdataset 1.0.2 reads a truncated shard as a shorter one, and raises no error.
#
# A tar that was cut in a header, or between two files, yields the examples
# before the cut. Python's `tarfile`, which reads it, takes what is left of a
# header for the end of the archive, and does not ask for the blocks of zeros
# that end a tar. Only a cut within a file, or in the zeros that fill its last
# block, raises an error. Whoever copied a shard in part trains on fewer
# examples, and nothing says so.
#
# Remedy: check that the last header is followed by a block of zeros, or compare
# checksums after copying.
#
# Seen with Python 3.11, webdataset 1.0.2, NumPy 2.4.6 on Linux x86-64. The
# script fails if the behaviour changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  numpy==2.4.6 webdataset==1.0.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys
import tarfile

import webdataset

os.chdir(sys.argv[1])
with webdataset.TarWriter('whole.tar') as writer:
  for index in range(100):
    writer.write({'__key__': f'{index:03}', 'txt': str(index)})
with tarfile.open('whole.tar') as archive:
  middle = archive.getmembers()[50].offset
with open('whole.tar', 'rb') as file:
  data = file.read()
cuts = {
  'whole': len(data),
  'cut between two files': middle,
  'cut in a header': middle + 100,
  'cut in a file': middle - 100,
}
found = {}
for name, size in cuts.items():
  with open('cut.tar', 'wb') as file:
    file.write(data[:size])
  try:
    found[name] = len(list(webdataset.WebDataset('cut.tar', shardshuffle=False)))
  except tarfile.ReadError as error:
    found[name] = type(error).__name__
  print(f'{name:22} {size:7} bytes: {found[name]}')
expected = [100, 50, 50, 'ReadError']
assert list(found.values()) == expected, found
PYTHON
