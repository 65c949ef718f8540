"""Datasets that are drawn when they are asked for, with nothing to download.

What is drawn is in `drawn_faces.py` and the modules beside it. Faces are stored
as PNG; the others, which are no photographs, as the `.npy` files of arrays.
"""

from types import ModuleType

import tensorflow_datasets as tfds
from PIL import Image

from vaegan_jax.data import (
  arrays,
  drawn_bands,
  drawn_faces,
  drawn_sounds,
  drawn_volumes,
)


class _Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Examples by number: the first to train with, and the next held out."""

  VERSION = tfds.core.Version('1.0.0')  # Raise it when the drawing changes.
  num_images = (('train', 4000), ('test', 512))
  url_infos = None  # Nothing is downloaded, so there are no checksums to find.

  def _split_generators(self, dl_manager):
    splits, first = {}, 0
    for name, count in self.num_images:
      splits[name] = self._generate_examples(range(first, first + count))
      first += count
    return splits


class DrawnFaces(_Drawn, skip_registration=True):
  """Cartoon faces of fine detail: 4,000 to train with and 512 held out."""

  def _info(self):
    shape = (drawn_faces.SIZE, drawn_faces.SIZE, 3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=shape, encoding_format='png')}
      ),
    )

  def _generate_examples(self, indices):
    for index in indices:
      image = Image.fromarray(drawn_faces.draw_face(index))
      yield index, {'image': image}


class DrawnArrays(_Drawn, skip_registration=True):
  """What a module draws: [*S, C] of the dtype that it has."""

  drawing: ModuleType

  def _info(self):
    metadata = tfds.core.MetadataDict()
    metadata['shape'] = list(self.drawing.SHAPE)
    metadata['dtype'] = self.drawing.draw(0).dtype.name
    if hasattr(self.drawing, 'SAMPLE_RATE'):
      metadata['sample_rate'] = self.drawing.SAMPLE_RATE
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'image': tfds.features.Text()}),
      metadata=metadata,
    )

  def _generate_examples(self, indices):
    for index in indices:
      yield index, {'image': arrays.encode_npy(self.drawing.draw(index))}


class DrawnBands(DrawnArrays, skip_registration=True):
  """Land from above, in thirteen bands of 16 bits."""

  drawing = drawn_bands


class DrawnSounds(DrawnArrays, skip_registration=True):
  """Plucked strings and chirps, half a second each."""

  drawing = drawn_sounds


class DrawnVolumes(DrawnArrays, skip_registration=True):
  """An organ with a vessel that passes through it."""

  drawing = drawn_volumes


DRAWN = {
  'drawn_faces': DrawnFaces,
  'drawn_bands': DrawnBands,
  'drawn_sounds': DrawnSounds,
  'drawn_volumes': DrawnVolumes,
}
