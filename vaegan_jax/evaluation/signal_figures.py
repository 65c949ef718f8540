"""Pictures of examples of any kind: images, sounds, volumes.

An image is its own picture, a sound is plotted (`sound_figures`), and a volume
shows three cuts. Axes: N examples; S, one to three axes of space (of sounds T,
of images H and W, of volumes D, H and W); C channels.
"""

from collections.abc import Sequence

import numpy as np

from vaegan_jax.evaluation import figures, sound_figures

_IMAGE_HEIGHT = 128  # Pixels: small images are enlarged towards it,
_CUTS_WIDTH = 256  # and the three cuts of small volumes.
_NUM_PAIRS = 4  # Sounds on a page.
_NUM_COLUMNS = {1: 4, 2: 8, 3: 4}  # By axes of space.


def num_columns(num_axes: int) -> int:
  """Returns the number of examples in a row of a figure."""
  return _NUM_COLUMNS[num_axes]


def as_pictures(
  x: np.ndarray, *, bands: Sequence[int] = (), sample_rate: int
) -> np.ndarray:
  """Turns examples into pictures for the grids of `figures`.

  Args:
    x: [N, *S, C] in [-1, 1].
    bands: the shown channels, as `figures.choose_bands` takes them; the first
      one of sounds.
    sample_rate: sample rate of sounds, in Hz.

  Returns:
    [N, H', W', C'] float in [-1, 1]: the shown channels of images; plots of
    sounds, in RGB; the three cuts of volumes through the middle, across D, H
    and W, side by side with thin lines between them.
  """
  x = figures.choose_bands(np.asarray(x), bands)
  if x.ndim == 3:
    tiles = sound_figures.sound_tiles(x, sample_rate=sample_rate)
    return tiles / np.float32(127.5) - 1
  return x if x.ndim == 4 else _cuts_of(x)


def reconstructions(
  x: np.ndarray,
  x_recon: np.ndarray,
  *,
  bands: Sequence[int] = (),
  sample_rate: int,
) -> np.ndarray:
  """Arranges originals and reconstructions, each [N, *S, C], for comparison.

  They are [H', W', 3] uint8: rows over each other, or the page of the first
  sounds (`sound_figures.sound_pairs`).
  """
  options = {'bands': bands, 'sample_rate': sample_rate}
  if x.ndim == 3:
    few = [figures.choose_bands(i[:_NUM_PAIRS], bands) for i in (x, x_recon)]
    return sound_figures.sound_pairs(*few, sample_rate=sample_rate)
  shown, shown_recon = (as_pictures(i, **options) for i in (x, x_recon))
  return figures.reconstruction_figure(
    shown,
    shown_recon,
    columns=num_columns(x.ndim - 2),
    scale=scale_of(shown, x.ndim - 2),
  )


def scale_of(pictures: np.ndarray, num_axes: int) -> int:
  """Returns by which pictures [..., H', W', C'] are enlarged in a grid."""
  height, width = pictures.shape[-3:-1]
  if num_axes == 3:
    return max(1, _CUTS_WIDTH // width)
  return max(1, _IMAGE_HEIGHT // height)


def _cuts_of(x: np.ndarray) -> np.ndarray:
  """Returns cuts [N, H', W', C] of volumes [N, D, H, W, C], on white."""
  depth, height, width = (side // 2 for side in x.shape[1:-1])
  cuts = [x[:, depth], x[:, :, height], x[:, :, :, width]]
  tallest = max(cut.shape[1] for cut in cuts)
  line = np.ones((len(x), tallest, 1, x.shape[-1]), x.dtype)
  parts = []
  for cut in cuts:
    below = ((0, 0), (0, tallest - cut.shape[1]), (0, 0), (0, 0))
    parts += [line, np.pad(cut, below, constant_values=1)]
  # White around them shows which three belong together.
  around = ((0, 0), (1, 1), (2, 2), (0, 0))
  return np.pad(np.concatenate(parts[1:], axis=2), around, constant_values=1)
