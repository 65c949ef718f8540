"""Examples that a page shows, and the outputs of a run for them.

Axes: N examples; S, one to three axes of space; C channels.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.meanings import MEANINGS
from vaegan_jax.evaluation.reconstructor import Variables
from vaegan_jax.report.media import Item, Media

_NUM_SAMPLES = 16
_NUM_TRAVERSED = 4  # Entries of the latent.
_CHUNK = 32  # Examples that are reconstructed at a time.
_GALLERY_SHARE = 0.3  # Of a run's bytes.


@dataclasses.dataclass(frozen=True)
class Shown:
  """The pictures of one run."""

  media: Media
  originals: Mapping[int, Item]  # By index; or the reconstructions.
  recons: Mapping[int, Item]  # By index.
  galleries: Sequence[Mapping[str, Any]]  # [{'title', 'items', 'note'}].


def rank(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Ranks examples by each metric of which more or less is better.

  Args:
    values: {metric: [N]}, NaN where an example has none.

  Returns:
    {metric: [M] indices of the examples that have a value, the worst first}.
  """
  orders = {}
  for name, value in values.items():
    sign = MEANINGS[name].sign if name in MEANINGS else 0
    known = np.flatnonzero(np.isfinite(value))
    if sign and len(known):
      orders[name] = known[np.argsort(sign * value[known], kind='stable')]
  return orders


def choose(
  orders: Mapping[str, np.ndarray], num_examples: int, number: int
) -> list[int]:
  """Chooses examples: some of the first, and the extremes of each metric.

  Args:
    orders: those of `rank`.
    num_examples: the number of held-out examples.
    number: the number to choose.

  Returns:
    Indices, the most important first, without repetition: in turn the first
    examples, and the worst, the median and the best by each metric.
  """
  number = min(number, num_examples)
  chosen = dict.fromkeys(range(min(max(number // 4, 1), number)))
  for place in range(num_examples):
    for order in orders.values():
      if place < len(order):
        middle = (len(order) // 2 + place) % len(order)
        chosen |= dict.fromkeys(order[[place, middle, -1 - place]].tolist())
    chosen[place] = None
    if len(chosen) >= number:
      break
  return list(chosen)[:number]


def collect(
  evaluator: Evaluator,
  variables: Variables,
  indices: Sequence[int],
  max_bytes: int,
  with_originals: bool,
) -> Shown:
  """Encodes what a run makes of examples, as many as fit into `max_bytes`.

  Args:
    indices: of held-out examples, the most important first.
    with_originals: whether the examples themselves are encoded, too.
  """
  bands = tuple(evaluator.bands)
  media = Media(evaluator.shape, bands, evaluator.sample_rate)
  limit = max_bytes * _GALLERY_SHARE
  galleries = []
  originals, recons, latents = {}, {}, None
  size = 0
  for start in range(0, len(indices), _CHUNK):
    chunk = indices[start : start + _CHUNK]
    x, x_recon, z = evaluator.reconstruct(variables, chunk)
    if latents is None:
      latents = z
      for title, gallery in _galleries(evaluator, variables, latents):
        galleries.append(_encode_gallery(media, title, gallery, limit))
        limit -= _size(galleries[-1]['items'])
      size = sum(_size(gallery['items']) for gallery in galleries)
    for index, *pair in zip(chunk, x, x_recon, strict=True):
      items = [media.encode(i) for i in (pair if with_originals else pair[1:])]
      size += _size(items)
      if size > max_bytes:
        return Shown(media, originals, recons, galleries)
      originals[index], recons[index] = items[0], items[-1]
  return Shown(media, originals, recons, galleries)


def _galleries(evaluator, variables, latents):
  """Yields (title, examples [N, *S, C]) of the latent space."""
  path = evaluator.interpolate(variables, *latents[[0, 1 % len(latents)]])
  yield 'From the first example to the second', path
  yield 'Samples from the prior', evaluator.sample(variables)[:_NUM_SAMPLES]
  if evaluator.has_codes:  # Between codes there is nothing.
    return
  # In a map, an entry changes at all positions.
  axes = tuple(range(latents.ndim - 1))
  means, deviations = latents.mean(axis=axes), latents.std(axis=axes)
  for entry in np.argsort(-deviations)[:_NUM_TRAVERSED]:
    ends = []
    for sign in (-1, 1):
      end = np.array(latents[0])
      end[..., entry] = means[entry] + sign * 2 * deviations[entry]
      ends.append(end)
    title = f'Entry {entry} of the first latent, from -2 to 2 deviations'
    yield title, evaluator.interpolate(variables, *ends)


def _encode_gallery(media, title, x, limit) -> dict[str, Any]:
  """Encodes examples, evenly thinned to at most `limit` bytes."""
  x = media.of_middle(np.asarray(x))
  first = media.encode(x[0])
  number = min(len(x), int(limit // _size([first])))
  note = '' if number == len(x) else f'{max(number, 0)} of {len(x)} fit'
  if number < 2:
    return {'title': title, 'items': [], 'note': note}
  kept = np.linspace(0, len(x) - 1, number).round().astype(int)
  items = [media.encode(x[i]) for i in kept]
  return {'title': title, 'items': items, 'note': note}


def _size(items: Iterable[Item]) -> int:
  return sum(len(text) for item in items for text in item.values())
