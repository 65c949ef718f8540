"""Datasets of which the images or the prepared data are in a bucket.

Prepared data is made on one machine, with `datasets.create_builder`, and stored
in the bucket once; every machine reads its own copy of it.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from vaegan_jax.data import datasets
from vaegan_jax.data.buckets import (
  LAST_FILE,
  BucketFolder,
  in_bucket,
  local_folder,
)
from vaegan_jax.data.image_files import expand_path
from vaegan_jax.errors import UserError


def open_dataset(
  data: Mapping[str, Any], *, fill_bucket: bool, num_samples: int = 0
) -> tfds.core.DatasetBuilder:
  """Opens a dataset as `datasets.create_builder` does, from buckets too.

  Args:
    data: the fields of `config.data`.
    fill_bucket: whether this process prepares what a `data_dir` in a bucket
      lacks, and stores it there. Only where the user himself has named it: a
      configuration that was found may lead his images into a stranger's bucket.
    num_samples: as `create_builder` takes it.

  Returns:
    A TFDS builder whose data is on this machine.

  Raises:
    UserError: as `create_builder`; a bucket cannot be used, or lacks the data.
  """
  name, path, data_dir = data['name'], data['path'], data['data_dir']
  rules = {'folder_rules': data['folder_rules'], 'num_samples': num_samples}
  if not in_bucket(path) and not in_bucket(data_dir):
    return datasets.create_builder(name, path=path, data_dir=data_dir, **rules)
  data_dir = data_dir.rstrip('/')
  _check_apart(path, data_dir)
  copies = _copies_folder(data)
  images = BucketFolder(path, copies, 'data.path') if in_bucket(path) else None
  if not in_bucket(data_dir):
    path = str(images.copy(exactly=True))
    return datasets.create_builder(name, path=path, data_dir=data_dir, **rules)
  here = str(local_folder(data_dir, copies))
  place = _find_place(name, path, rules, images, here)
  prepared = BucketFolder(f'{data_dir}/{place}', copies, 'data.data_dir')
  if LAST_FILE not in prepared.files:
    if not fill_bucket:
      raise UserError(
        f'data.data_dir is {data_dir!r}, which does not hold {name} as '
        f'{place}; --mode=train prepares it there, or name a folder on a disk, '
        'such as --config.data.data_dir=~/tensorflow_datasets.'
      )
    _fill(prepared, name, path, rules, images, here)
  return datasets.open_prepared(name, prepared.copy())


def _copies_folder(data: Mapping[str, Any]) -> str:
  data_dir = '' if in_bucket(data['data_dir']) else data['data_dir']
  folder = data['copy_dir'] or data_dir or datasets.HOME_DATA_DIR
  return os.path.join(expand_path(folder), 'buckets')


def _check_apart(path: str, data_dir: str) -> None:
  if in_bucket(path) and f'{data_dir}/'.startswith(f'{path.rstrip("/")}/'):
    raise UserError(
      f'data.data_dir is {data_dir!r}, which is in data.path={path!r}: each '
      'preparation would change the images; name another folder, such as '
      f'"{path.rstrip("/")}_prepared".'
    )


def _find_place(
  name: str,
  path: str,
  rules: Mapping[str, int],
  images: BucketFolder | None,
  data_dir: str,
) -> str:
  """Where below `data_dir` a dataset is, prepared or not, on all machines."""
  if not path:
    folder = datasets.create_unprepared(name, data_dir).data_path
    return os.path.relpath(folder, data_dir)
  # One place for each state of the images: changed, it is new.
  files = images or datasets.list_files(name, path, **rules)
  version = str(datasets.ImageFolder.VERSION)
  state = f'{name} {version} {rules["folder_rules"]} {files.fingerprint}'
  if rules['num_samples']:
    state += f' {rules["num_samples"]}'
  digest = hashlib.sha256(state.encode()).hexdigest()
  return f'{name}/{digest[:16]}'


def _fill(
  prepared: BucketFolder,
  name: str,
  path: str,
  rules: Mapping[str, int],
  images: BucketFolder | None,
  data_dir: str,
) -> None:
  """Prepares a dataset here, and stores it in its folder of the bucket."""
  if images:
    path = str(images.copy(exactly=True))
  place = prepared.folder
  # Of a folder, TFDS's name for it is not that of its place on all machines.
  made_in = f'{place}-preparing' if path else data_dir
  with prepared.alone():
    prepared.refresh()
    if LAST_FILE in prepared.files:  # Another run was faster.
      return
    builder = datasets.create_builder(
      name, path=path, data_dir=made_in, **rules
    )
    prepared.fill(builder.data_path, leave_out='decoded-')
    if path:
      shutil.rmtree(place, ignore_errors=True)
      os.replace(builder.data_path, place)
      shutil.rmtree(made_in)
  print(f'What was prepared is in the bucket, and here in {place}.', flush=True)
