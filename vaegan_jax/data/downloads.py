"""Downloads that fail soon and say what to fetch by hand.

TFDS downloads; by itself it tries ten times, and waits for a silent server
without end.
"""

import contextlib
import logging
from collections.abc import Iterator
from urllib import parse

import requests
import tensorflow_datasets as tfds

from vaegan_jax.data.image_files import describe_error

# Seconds for a server to be reached, and between two pieces of a file.
_TIMEOUTS = (10, 20)
_MAX_NAMED = 5  # Files in a sentence.


@contextlib.contextmanager
def impatient() -> Iterator[None]:
  """A context in which a server that is silent or not there is an error.

  When it ends, so do the downloads that go on, which would keep the process.
  """
  send, responses = requests.adapters.HTTPAdapter.send, []

  def send_once(self, request, stream=False, timeout=None, **options):
    self.max_retries = self.max_retries.new(total=1, connect=0)
    response = send(
      self, request, stream=stream, timeout=timeout or _TIMEOUTS, **options
    )
    responses.append(response)
    return response

  log = logging.getLogger('urllib3.connectionpool')  # Of each attempt.
  level = log.level
  log.setLevel(logging.ERROR)
  requests.adapters.HTTPAdapter.send = send_once
  try:
    yield
  finally:
    requests.adapters.HTTPAdapter.send = send
    log.setLevel(level)
    for response in responses:
      response.close()


def by_hand(builder: tfds.core.DatasetBuilder, error: Exception) -> str:
  """Says why a download failed, what to fetch by hand and where to put it.

  Args:
    builder: of the dataset.
    error: that it failed with.

  Returns:
    The end of a sentence; '' if TFDS does not know the files of the dataset.
  """
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
  return f'{host or "the server"} cannot be reached or fell silent'
