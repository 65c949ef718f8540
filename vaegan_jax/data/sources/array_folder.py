"""A folder of arrays or sounds, read in place."""

from vaegan_jax.data import source


class Source(source.Source):
  """Arrays of a user's folder, in units of their own."""

  holds_arrays = True
  path = 'required'
  has_groups = True
  has_crops = True
  has_conversion = True

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    from vaegan_jax.data.array_files import ArrayFiles, CroppedFiles
    from vaegan_jax.data.folder import FolderDataset, local_path

    kind = CroppedFiles if data.crop == 'random' else ArrayFiles
    return FolderDataset('array_folder', kind(local_path(data), data), data)
