"""The fault suite: injects faults into runs of main.py and checks recovery.

python -m tests.faults
python -m tests.faults --rows=kills,damage --kills=1000 --folder=DIR
"""

import os

# JAX reads these when it is imported. Values that are already set are kept.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
