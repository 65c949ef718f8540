"""Drawn bands, sounds and volumes: by number, and full of fine detail."""

import hashlib

import numpy as np
import pytest

from vaegan_jax.data import drawn_bands, drawn_sounds, drawn_volumes
from vaegan_jax.evaluation import metrics

# Of eight examples, in steps so coarse that no sine's last bit counts.
DIGESTS = {
  drawn_bands: 'b036fba7219f5a15',
  drawn_sounds: 'e2e8571b13fc732b',
  drawn_volumes: 'b45b2595b7c634aa',
}


@pytest.mark.parametrize('module', DIGESTS, ids=lambda m: m.__name__[-7:])
def test_what_is_drawn_is_the_same_everywhere_and_has_detail(module):
  # Changes with the drawing: then raise the dataset's version.
  drawn = np.stack([module.draw(index) for index in range(8)])
  assert drawn.shape == (8, *module.SHAPE)
  assert not (drawn[0] == drawn[1]).all()
  span = float(drawn.max()) - float(drawn.min())
  coarse = np.round(drawn / (span / 4)).astype(np.int8)
  digest = hashlib.sha256(coarse.tobytes()).hexdigest()[:16]
  assert digest == DIGESTS[module]
  x = (drawn - float(drawn.min())) / span * 2 - 1
  fine = np.square(metrics.high_frequencies(x.astype(np.float32)))
  varying = np.square(x - x.mean(axis=tuple(range(1, x.ndim)), keepdims=True))
  assert fine.sum() > 0.01 * varying.sum()  # What a blur destroys.
