"""CelebA: the files of its authors in a folder, or TFDS's copy."""

from vaegan_jax.data import source
from vaegan_jax.data.sources import tfds


class Source(source.Source):
  """Photographs of celebrities, in the splits of their authors."""

  path = 'optional'
  has_features = True

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    """Opens the folder, or TFDS's copy without `data.path`."""
    if not data.path:
      return tfds.Source.open(data, fill_bucket=fill_bucket)
    from vaegan_jax.data.celeba_files import CelebAFiles
    from vaegan_jax.data.folder import FolderDataset, local_path

    files = CelebAFiles(local_path(data))
    # The name that fingerprints have always had.
    return FolderDataset('celeb_a_folder', files, data)
