"""Downloads that fail soon, with instructions for fetching files by hand.

By itself TFDS tries ten times, and waits for a silent server without end.
"""

import contextlib
import functools
import logging
import types
from collections.abc import Iterator
from urllib import parse

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from vaegan_jax.errors import describe_error

# Seconds to reach a server, and between two pieces of a file.
_TIMEOUTS = (10, 20)
_MAX_NAMED = 5  # Files in one message.


class _Session(requests.Session):
  """A session whose requests time out and are repeated once."""

  def __init__(self, responses: list[requests.Response]):
    super().__init__()
    self._responses = responses

  def mount(self, prefix, adapter):
    adapter.max_retries = adapter.max_retries.new(total=1, connect=0)
    super().mount(prefix, adapter)

  def send(self, request, **options):
    options['timeout'] = options.get('timeout') or _TIMEOUTS
    response = super().send(request, **options)
    self._responses.append(response)
    return response


@contextlib.contextmanager
def fail_soon() -> Iterator[None]:
  """A context in which TFDS's downloads raise if a server does not answer.

  Its end closes the downloads that are still open, which would keep the
  process alive. TFDS has no option for any of this, so its downloader gets
  another `requests`; everything else in the process keeps the usual one.
  """
  responses = []
  module = types.SimpleNamespace(
    Session=functools.partial(_Session, responses),
    adapters=requests.adapters,
    packages=requests.packages,
  )
  original = downloader.requests
  log = logging.getLogger('urllib3.connectionpool')  # It reports each attempt.
  level = log.level
  log.setLevel(logging.ERROR)
  downloader.requests = module
  try:
    yield
  finally:
    downloader.requests = original
    log.setLevel(level)
    for response in responses:
      response.close()


def by_hand(builder: tfds.core.DatasetBuilder, error: Exception) -> str:
  """Returns which files to fetch by hand, to end a sentence; '' if unknown."""
  infos = builder.url_infos or {}
  files = [f'{i.filename} ({url})' for url, i in infos.items() if i.filename]
  if not files:
    return ''
  more = len(files) - _MAX_NAMED
  named = ', '.join(files[:_MAX_NAMED]) + (f' and {more} more' * (more > 0))
  folder = builder.data_dir_root / 'downloads' / 'manual'
  own = (
    ', or set --config.data.path to a folder that has img_align_celeba and '
    'list_eval_partition.txt'
  )
  return (
    f'which could not be downloaded ({_reason(error)}): by hand, put '
    f'{named} into {folder}{own if builder.name == "celeb_a" else ""}'
  )


def _reason(error: Exception) -> str:
  if not isinstance(error, (requests.ConnectionError, requests.Timeout)):
    return describe_error(error)
  host = error.request and parse.urlsplit(error.request.url).hostname
  return f'{host or "the server"} cannot be reached or does not answer'
