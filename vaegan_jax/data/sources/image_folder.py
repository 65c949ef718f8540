"""A folder of images, read in place."""

from vaegan_jax.data import source


class Source(source.Source):
  """Photographs of a user's folder."""

  path = 'required'
  has_groups = True
  converts_profiles = True

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    from vaegan_jax.data.folder import FolderDataset, local_path
    from vaegan_jax.data.image_files import ImageFiles

    rules = min(data.folder_rules, 3)  # For images, 4 are the same.
    files = ImageFiles(local_path(data), rules, data.group_by)
    return FolderDataset('image_folder', files, data)
