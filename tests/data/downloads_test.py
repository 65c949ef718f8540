"""Downloads that fail, hang or stall end soon, in a sentence that helps."""

import contextlib
import hashlib
import logging
import socket
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from tests.data.tfds_builders import Builder
from vaegan_jax.data import downloads, tfds_dataset
from vaegan_jax.errors import UserError

_CONTENT = b'five words of a file'


class FromTheNet(Builder):
  """A dataset of one record, out of one file to download."""

  def kinds(self):
    return {'size': np.int64}

  def _split_generators(self, dl_manager):
    (url,) = self.url_infos
    return {'train': self._generate_examples(dl_manager.download(url))}

  def _generate_examples(self, path):
    yield 0, {'size': path.stat().length}


_HEAD = b'HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n'
_ANSWERS = {
  'refuses': None,
  'is silent': b'',
  'stalls': _HEAD % (b'200 OK', len(_CONTENT)) + _CONTENT[:9],
  'breaks off': _HEAD % (b'200 OK', len(_CONTENT)) + _CONTENT[:9],
  'has another file': _HEAD % (b'200 OK', 5) + b'other',
  'does not have it': _HEAD % (b'404 Not Found', 0),
}


@contextlib.contextmanager
def _server(behaviour):
  """Yields a URL whose server behaves so."""
  with socket.create_server(('127.0.0.1', 0)) as listening:
    url = f'http://127.0.0.1:{listening.getsockname()[1]}/words.txt'
    if behaviour == 'refuses':
      listening.close()
      yield url
      return
    connections = []

    def serve():
      with contextlib.suppress(OSError):
        while True:
          connection, _ = listening.accept()
          connections.append(connection)
          connection.recv(2**16)
          connection.sendall(_ANSWERS[behaviour])
          if behaviour not in ('is silent', 'stalls'):
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield url
    listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in connections:
      connection.close()


def _prepare(data_dir):
  builder = FromTheNet(data_dir=str(data_dir))
  tfds_dataset._prepare(builder, 'from_the_net')
  return builder


def _expect(monkeypatch, url):
  info = tfds.download.checksums.UrlInfo(
    size=len(_CONTENT),
    checksum=hashlib.sha256(_CONTENT).hexdigest(),
    filename='words.txt',
  )
  monkeypatch.setattr(FromTheNet, 'url_infos', {url: info})


@pytest.mark.parametrize('behaviour', _ANSWERS)
def test_a_download_that_fails_says_what_to_do_by_hand(
  behaviour, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(downloads, '_TIMEOUTS', (0.2, 0.2))
  with _server(behaviour) as url, caplog.at_level(logging.DEBUG):
    _expect(monkeypatch, url)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
      _prepare(tmp_path)
    assert time.monotonic() - start < 60
  folder = tmp_path / 'downloads' / 'manual'
  sentence = str(caught.value)
  assert "data.name is 'from_the_net', which could not be downl" in sentence
  assert f'by hand, put words.txt ({url}) into {folder}' in sentence
  # A bucket that an earlier test has left retries in a thread of its own.
  told = [r.getMessage() for r in caplog.records if r.name.startswith('urllib')]
  assert not [message for message in told if 'Retrying' in message]
  # And that helps.
  folder.mkdir(parents=True)
  (folder / 'words.txt').write_bytes(_CONTENT)
  (record,) = _prepare(tmp_path).as_data_source('train')
  assert record['size'] == len(_CONTENT)


def test_celeb_a_names_its_files_and_the_flag_that_needs_none(
  tmp_path, monkeypatch
):
  def fail(self, *args, **options):
    raise requests.ConnectionError('no route')

  monkeypatch.setattr(requests.Session, 'get', fail)
  with pytest.raises(UserError) as caught:
    tfds_dataset.create_builder('celeb_a', data_dir=str(tmp_path))
  sentence = str(caught.value)
  for word in (
    'img_align_celeba.zip (https://drive.google.com/uc?',
    'list_eval_partition.txt (https://drive.google.com/uc?',
    str(tmp_path / 'downloads' / 'manual'),
    'or set --config.data.path to a folder that has img_align_celeba',
  ):
    assert word in sentence


def test_only_tfds_gets_impatient_sessions():
  original = downloader.requests
  send = requests.adapters.HTTPAdapter.send
  session = requests.Session
  with downloads.fail_soon():
    assert downloader.requests is not original
    assert requests.adapters.HTTPAdapter.send is send
    assert requests.Session is session
  assert downloader.requests is original


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').touch()
  data_dir = tmp_path / 'file' / 'data'  # Root cannot write there, either.
  with pytest.raises(UserError) as caught:
    _prepare(data_dir)
  assert f"data.data_dir is '{data_dir}'" in str(caught.value)
  assert '--config.data.data_dir=/scratch/data' in str(caught.value)
