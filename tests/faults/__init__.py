"""The fault suite: what a run survives, done to runs of main.py.

python -m tests.faults
python -m tests.faults --rows=kills,damage --kills=1000 --folder=DIR
"""

import os

# JAX reads these when it is imported; what is there already is kept.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
