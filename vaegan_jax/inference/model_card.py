"""The card of an exported model: its description, scores and figures."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.tables import markdown_table
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.models.pretrained import diffusers
from vaegan_jax.runtime.files import write_bytes, write_text

# The Hub of Hugging Face reads the lines before the title.
_CARD = """---
library_name: {library}
tags:
- autoencoder
---

# {title}

An autoencoder trained by `vaegan_jax`: objective `{objective}`, step {step:,},
on `{data}`.

- {images}
- latents: {latent}, `{kind}`{statistics}
- weights: {sizes}

{use}## Scores

{measured}
{figures}{file}"""
_USE = """```python
import vaegan_jax

model = vaegan_jax.load('.')  # This folder.
x = model.preprocess(images)  # [B, H, W, C]
latents = model.encode(x).mode()
x_recon = model.decode(latents)  # In [-1, 1]; model.to_values undoes it.
```

"""
_USE_IN_DIFFUSERS = """```python
from diffusers import {0}

model = {0}.from_pretrained('.')  # This folder.
latents = model.encode(x).{1}  # x: {2} in [-1, 1].
x_recon = model.decode(latents).sample
```

"""
_USE_IN_JAX = """Two programs with the weights inside, for CPUs, GPUs and TPUs.
They need JAX alone.

```python
import jax.export

with open('encode.stablehlo', 'rb') as file:
  encode = jax.export.deserialize(bytearray(file.read())).call
with open('decode.stablehlo', 'rb') as file:
  decode = jax.export.deserialize(bytearray(file.read())).call
latents = encode(x)  # x: [B, *S, C] float32 in [-1, 1], any B.
x_recon = decode(latents)
```

"""
_FILE = """## The file

`model.safetensors` holds little-endian arrays after a JSON header. Their names
are `autoencoder.params.<module>.<...>.kernel`, as in Flax. Kernels of
convolutions are [height, width, in, out], those of dense layers [in, out].
`config.json` has every field of the run.

```python
import json
import numpy as np

with open('model.safetensors', 'rb') as file:
  data = file.read()
size = int.from_bytes(data[:8], 'little')
header = json.loads(data[8 : 8 + size])
metadata = header.pop('__metadata__')
types = {'F32': np.float32, 'I32': np.int32}
tensors = {
  name: np.frombuffer(
    data[8 + size :][slice(*of['data_offsets'])], types[of['dtype']]
  ).reshape(of['shape'])
  for name, of in header.items()
}
```
"""
_USES = {
  'own': ('vaegan_jax', _USE),
  'diffusers': ('diffusers', _USE_IN_DIFFUSERS),
  'stablehlo': ('jax', _USE_IN_JAX),
}
_NOT_EVALUATED = 'None: `--mode=evaluate` had not been run at this step.\n'


def write_card(
  model: TrainedModel,
  tensors: Mapping[str, np.ndarray],
  folder: epath.Path,
  format: str,
) -> None:
  """Writes `README.md`, and copies the scores and figures of the evaluation.

  `format` is one of `names.EXPORT_FORMATS`.
  """
  source = epath.Path(model.source)
  title, (library, use) = source.name, _USES[format]
  scores, protocol, figures = _read_evaluation(source, model.step)
  measured = _NOT_EVALUATED
  if scores:
    measured = f'{markdown_table({title: scores})}\n{protocol}'
    line = json.dumps({'step': model.step, **scores})
    write_text(folder / 'evaluation.json', line + '\n')
  for path in figures:
    write_bytes(folder / 'figures' / path.name, path.read_bytes())
  config = model.config
  card = _CARD.format(
    library=library,
    use=use.format(*_in_diffusers(config.model)),
    file=_FILE if format == 'own' else '',
    title=title,
    objective=config.objective,
    step=model.step,
    data=config.data.name,
    images=_describe_images(model),
    latent='x'.join(map(str, model.latent_shape)),
    kind=config.model.latent,
    statistics=_describe_statistics(model),
    sizes=_describe_sizes(tensors),
    measured=measured,
    figures=''.join(f'![{p.stem}](figures/{p.name})\n\n' for p in figures),
  )
  write_text(folder / 'README.md', card)


def _in_diffusers(model: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the class there, what has the latents, and the axes."""
  if model['layout'] not in diffusers.LAYOUTS:
    return '', '', ''
  is_random = model['latent'] == 'gaussian'
  latents = 'latent_dist.mode()' if is_random else 'latents'
  axes = '[B, C, T]' if model['layout'] == 'oobleck' else '[B, C, H, W]'
  return diffusers.class_of(model), latents, axes


def _read_evaluation(
  source: epath.Path, step: int
) -> tuple[dict[str, Any], str, list[epath.Path]]:
  """Returns the scores, their protocol and the figures, if of this step."""
  path = source / 'evaluation.json'
  try:
    scores = json.loads(path.read_text()) if path.exists() else {}
    if scores.pop('step', None) != step:
      return {}, '', []
  except (ValueError, AttributeError) as error:
    raise UserError(
      f'{path} is damaged ({error!r}): --mode=evaluate writes it again'
    ) from error
  table = source / 'evaluation.md'
  lines = table.read_text().splitlines() if table.exists() else []
  protocol = ''.join(f'{line}\n' for line in lines if line.startswith('- '))
  figures = sorted((source / 'figures').glob('evaluation_*.png'))
  return scores, f'{protocol}\n', figures


def _describe_images(model: TrainedModel) -> str:
  shape = 'x'.join(map(str, model.image_shape))
  value_range = model.config.data.value_range
  if value_range == 'dtype':
    return f'examples: {shape}, floats in [-1, 1]: `uint8 / 127.5 - 1`'
  low, high = value_range
  return (
    f'examples: {shape}, floats in [-1, 1], which are {low:g} to {high:g} in '
    'the units of the data'
  )


def _describe_statistics(model: TrainedModel) -> str:
  if model.statistics is None:
    return ''
  return (
    f', scaling factor {float(model.scaling_factor):.5g} (over '
    f'{model.statistics.num_images:,} training examples; means and '
    'deviations are in `latents.json`)'
  )


def _describe_sizes(tensors: Mapping[str, np.ndarray]) -> str:
  sizes = {}
  for name, array in tensors.items():
    network = name.partition('.')[0]
    sizes[network] = sizes.get(network, 0) + array.size
  return ', '.join(f'{name} {size:,}' for name, size in sizes.items())
