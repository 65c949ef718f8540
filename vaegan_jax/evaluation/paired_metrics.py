"""LPIPS in VGG16 and in AlexNet, and DISTS: metrics of pairs of pictures.

Their files are recognised by content, in any order. Axes: B pictures, H height,
W width, C channels.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.losses.distances import feature_distance
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.models.pretrained import dists, lpips, vgg, weights

# Each kind of file, with its name in messages.
_VGG16, _ALEXNET = "torchvision's VGG16", "torchvision's AlexNet"
_VGG16_HEADS = "LPIPS's heads for VGG16"
_ALEXNET_HEADS = "LPIPS's heads for AlexNet"
_DISTS = "DISTS's weights"
_KINDS = (_VGG16, _ALEXNET, _VGG16_HEADS, _ALEXNET_HEADS, _DISTS)

Files = Mapping[str, tuple[str, Mapping[str, np.ndarray]]]


class PairedMetric(NamedTuple):
  """A metric of pairs in the features of a pretrained network."""

  name: str  # Name in the table of metrics.
  # (variables, pictures [B, H, W, C] in [-1, 1]) -> {name: features}.
  embed: Callable[[Any, jax.Array], dict[str, Any]]
  variables: Any  # Those of the network, in NumPy.
  files: tuple[str, str]  # Paths of the network's file and of the metric's.
  description: str  # A line of the protocol, without the files.


def load_paired_metrics(paths: Sequence[str]) -> list[PairedMetric]:
  """Reads the files of one or more metrics.

  Args:
    paths: a network's file and a metric's for each metric, in any order; VGG16
      serves LPIPS and DISTS.

  Raises:
    UserError: a file is damaged, of no known kind, twice there, or without its
      partner.
  """
  files = {}
  for path in paths:
    state = weights.read_state_dict(path)
    kind = _kind_of(path, state)
    if kind in files:
      raise UserError(
        f'{files[kind][0]} and {path} both hold {kind}: name one of them.'
      )
    files[kind] = path, state
  found = [pair for pair in _METRICS if files.keys() >= {*pair}]
  used = {kind for pair in found for kind in pair}
  for kind in (kind for kind in files if kind not in used):
    partners = [
      k for pair in _METRICS if kind in pair for k in {*pair} - {kind}
    ]
    raise UserError(
      f'{files[kind][0]} holds {kind}, and no other file goes with it: name '
      f'the file of {" or ".join(partners)} too.'
    )
  return [_METRICS[pair](files, *pair) for pair in found]


def _kind_of(path: str, state: Mapping[str, np.ndarray]) -> str:
  """Returns the kind of a file by its first tensors."""
  if 'alpha' in state and 'beta' in state:
    return _DISTS
  if 'lin0.model.1.weight' in state:
    second = state.get('lin1.model.1.weight', np.zeros(0))
    return _ALEXNET_HEADS if second.shape[1:2] == (192,) else _VGG16_HEADS
  first = state.get('features.0.weight')
  if first is not None:
    return _ALEXNET if first.shape[-1:] == (11,) else _VGG16
  some = ', '.join(list(state)[:3])[:80] or 'none at all'
  raise UserError(
    f'{path} holds none of {", ".join(_KINDS)}, as its tensors are '
    f'{some!r}: download {vgg.URLS[16]}, {lpips.ALEXNET_URL} or {dists.URL}.'
  )


def _load_lpips(files: Files, trunk: str, heads: str) -> PairedMetric:
  name, network, title = (
    ('lpips', 'vgg16', 'VGG16')
    if trunk == _VGG16
    else ('lpips_alex', 'alexnet', 'AlexNet')
  )
  return PairedMetric(
    name,
    functools.partial(embed_for_lpips, lpips.LPIPS(network), name),
    lpips.to_variables(files[trunk], files[heads], network),
    (files[trunk][0], files[heads][0]),
    f'{name}: v0.1 in {title} (arXiv 1801.03924), pictures enlarged to at '
    f'least {lpips.MIN_SIDE} pixels',
  )


def _load_dists(files: Files, trunk: str, factors: str) -> PairedMetric:
  variables = {
    'vgg': vgg.to_variables(*files[trunk], 16),
    'factors': dists.to_factors(*files[factors]),
  }
  return PairedMetric(
    'dists',
    _embed_for_dists,
    variables,
    (files[trunk][0], files[factors][0]),
    'dists: DISTS (arXiv 2004.07728), pictures enlarged to at least '
    f'{lpips.MIN_SIDE} pixels and never reduced',
  )


_METRICS = {
  (_VGG16, _VGG16_HEADS): _load_lpips,
  (_ALEXNET, _ALEXNET_HEADS): _load_lpips,
  (_VGG16, _DISTS): _load_dists,
}


def embed_for_lpips(module, name, variables, pictures, layer=''):
  """Embeds pictures [B, H, W, 1 or 3] in [-1, 1] for the LPIPS of this name.

  The mean of a further `layer` over positions is returned as 'features', for
  the Frechet distance.
  """
  layers = (*module.layer_names, layer) if layer else module.layer_names
  _, features = capture_features(
    module, variables, lpips.enlarge(pictures), layers=layers
  )
  embedded = {}
  if layer:
    embedded['features'] = features.pop(layer).mean(axis=(1, 2))
  return embedded | {name: features}


def _embed_for_dists(variables, pictures):
  maps = dists.maps_of(variables['vgg'], lpips.enlarge(pictures))
  return {'dists': {'maps': maps, 'factors': variables['factors']}}


def compare_pairs(features, features_recon) -> dict[str, jax.Array]:
  """Computes the metrics [B] of which there are features, {name: [B]}."""
  compared = {
    name: feature_distance(
      features[name], features_recon[name], reduction='spatial'
    )
    for name in ('lpips', 'lpips_alex')
    if name in features
  }
  if 'dists' in features:
    pair = (f['dists']['maps'] for f in (features, features_recon))
    compared['dists'] = dists.distance(*pair, features['dists']['factors'])
  return compared
