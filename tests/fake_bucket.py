"""A local server with the HTTP protocol of Google Cloud Storage.

TensorFlow's `gs://`, which etils, orbax and the TensorBoard writer use, accepts
only Google's own address or a proxy. This server is that proxy, and answers
itself. TensorStore, which stores a checkpoint's arrays, and Google's client,
which copies data, get its address. As in the real one, objects are complete or
absent, and there are no folders, no appending and no renaming.

It runs in a separate process, because TensorFlow may block Python while it
waits for the answer. `gs://refused` forbids everything.
"""

import base64
import contextlib
import functools
import http.server
import json
import pathlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import google_crc32c

_HOSTS = ('www.googleapis.com', 'storage.googleapis.com')


class FakeBucket:
  """Serves the bucket `bucket` until it is closed."""

  def __init__(self, folder):
    """Starts serving.

    Args:
      folder: folder of the certificate in Google's place.
    """
    names = ','.join(f'DNS:{host}' for host in _HOSTS)
    subprocess.run(
      [
        *('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes'),
        *('-keyout', folder / 'key.pem', '-out', folder / 'certificate.pem'),
        *('-days', '2', '-subj', '/CN=fake'),
        *('-addext', f'subjectAltName={names}'),
      ],
      check=True,
      capture_output=True,
    )
    self._process = subprocess.Popen(
      [sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True
    )
    self._address = f'http://127.0.0.1:{int(self._process.stdout.readline())}'
    # These variables point google-cloud-storage here. A proxy would
    # keep the processes of JAX from finding each other.
    self.client_environment = {
      'STORAGE_EMULATOR_HOST': self._address,
      'GOOGLE_CLOUD_PROJECT': 'anything',
    }
    # And TensorFlow and TensorStore, too.
    self.environment = self.client_environment | {
      'https_proxy': self._address,
      'CURL_CA_BUNDLE': str(folder / 'certificate.pem'),
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'anybody',
      'NO_GCE_CHECK': 'true',
      'TENSORSTORE_GCS_HTTP_URL': self._address,
    }

  def items(self):
    """Returns all objects in Google's format."""
    return json.loads(self._ask('o'))['items']

  def names(self):
    """Returns the names of all objects; placeholders of folders end in '/'."""
    return [item['name'] for item in self.items()]

  def read(self, name):
    """Returns the bytes of an object."""
    return self._ask(f'o/{urllib.parse.quote(name, safe="")}?alt=media')

  def write(self, name, content):
    """Stores an object."""
    name = urllib.parse.quote(name, safe='')
    self._ask(f'o?uploadType=media&name={name}', content)

  def remove(self, name):
    """Removes an object."""
    self._ask(f'o/{urllib.parse.quote(name, safe="")}', method='DELETE')

  def _ask(self, what, content=None, method=None):
    url = f'{self._address}/storage/v1/b/bucket/{what}'
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(
      urllib.request.Request(url, content, method=method)
    ) as answer:
      return answer.read()

  def close(self):
    """Ends the server."""
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()


class _Server(http.server.ThreadingHTTPServer):
  def __init__(self, folder):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.objects = {}  # {name: (content, generation)}
    self.lock = threading.Lock()
    self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self.tls.load_cert_chain(folder / 'certificate.pem', folder / 'key.pem')


class _Handler(http.server.BaseHTTPRequestHandler):
  """Handler of one client: the part of the JSON API that the tests need."""

  protocol_version = 'HTTP/1.1'
  wbufsize = -1
  disable_nagle_algorithm = True  # It would delay every answer by 40 ms.

  def log_message(self, *_):
    pass

  def handle_expect_100(self):
    proceed = super().handle_expect_100()
    self.wfile.flush()  # The client waits a second for it.
    return proceed

  def do_CONNECT(self):
    self._answer(200)
    tls = self.server.tls
    self.connection = tls.wrap_socket(self.connection, server_side=True)
    self.rfile = self.connection.makefile('rb')
    self.wfile = self.connection.makefile('wb')
    self.close_connection = False

  def handle(self):
    with contextlib.suppress(OSError, ValueError):  # The client was killed.
      super().handle()

  def parse_request(self):
    if not super().parse_request():
      return False
    url = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(url.query))
    self.parts = [urllib.parse.unquote(part) for part in url.path.split('/')]
    if self.command != 'CONNECT':
      self.body = b''.join(self._read_body())
      if 'bucket' not in self.parts:
        self._answer(403 if 'refused' in self.parts else 404)
        return False
    return True

  def _read_body(self):
    if self.headers.get('Transfer-Encoding') != 'chunked':
      yield self.rfile.read(int(self.headers.get('Content-Length') or 0))
      return
    while size := int(self.rfile.readline(), 16):
      yield self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()

  def do_GET(self):
    bucket = self.server
    name = self._name()
    with bucket.lock:
      if self.parts[-2] == 'b':  # The bucket itself.
        self._answer(200, {'name': 'bucket'})
      elif self.parts[-1] == 'storageLayout':
        flat = {'hierarchicalNamespace': {'enabled': False}}
        self._answer(200, flat)
      elif name is None:
        self._answer(200, self._list(bucket.objects))
      elif name not in bucket.objects:
        self._answer(404)
      elif self.query.get('alt') == 'media' or self.parts[1] != 'storage':
        self._send_content(*bucket.objects[name])
      else:
        self._answer(200, _describe(name, *bucket.objects[name]))

  def do_POST(self):
    if self.query.get('uploadType') == 'resumable':
      host = f'https://{self.headers["Host"]}'
      place = f'{host}/upload/storage/v1/b/bucket/o/'
      quoted = urllib.parse.quote(self.query['name'], safe='')
      self._answer(200, {}, Location=place + quoted)
    elif 'rewriteTo' in self.parts:
      self._copy()
    elif self.query.get('uploadType') == 'multipart':
      self._store(*self._split_parts())
    else:
      self._store(self.query['name'])

  def do_PUT(self):
    self._store(self._name())

  def do_DELETE(self):
    objects, name = self.server.objects, self._name()
    wanted = self.query.get('ifGenerationMatch')
    with self.server.lock:
      if name not in objects:
        self._answer(404)
      elif wanted not in (None, str(objects[name][1])):
        self._answer(412)
      else:
        del objects[name]
        self._answer(204)

  def _name(self):
    """Returns the object that the path names; None for a listing."""
    if 'o' in self.parts and 'b' in self.parts:
      name = self.parts[self.parts.index('o') + 1 :]
      return '/'.join(name) if name else None
    return '/'.join(self.parts[2:])

  def _store(self, name, content=None):
    bucket = self.server
    content = self.body if content is None else content
    wanted = self.query.get('ifGenerationMatch')
    with bucket.lock:
      _, generation = bucket.objects.get(name, (b'', 0))
      if wanted is not None and int(wanted) != generation:
        self._answer(412)
        return
      bucket.objects[name] = content, time.time_ns() // 1000
      self._answer(200, _describe(name, *bucket.objects[name]))

  def _split_parts(self):
    """Returns the name and content of an upload with both in its body."""
    boundary = self.headers['Content-Type'].partition('boundary=')[2]
    separator = b'--' + boundary.strip('"').encode()
    _, head, rest = self.body.split(separator, 2)
    about = json.loads(head.partition(b'\r\n\r\n')[2])
    content = rest.partition(b'\r\n\r\n')[2]
    return about['name'], content.rpartition(b'\r\n' + separator)[0]

  def _copy(self):
    bucket = self.server
    start, end = self.parts.index('o') + 1, self.parts.index('rewriteTo')
    source = '/'.join(self.parts[start:end])
    target = '/'.join(self.parts[self.parts.index('o', end) + 1 :])
    with bucket.lock:
      if source not in bucket.objects:
        self._answer(404)
        return
      bucket.objects[target] = bucket.objects[source]
    self._answer(200, {'done': True})

  def _list(self, objects):
    prefix = self.query.get('prefix', '')
    delimiter = self.query.get('delimiter')
    first = self.query.get('startOffset', '')
    items, prefixes = [], {}
    for name in sorted(objects):
      if not name.startswith(prefix) or name < first:
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes[prefix + rest.partition(delimiter)[0] + delimiter] = None
      else:
        items.append(_describe(name, *objects[name]))
    limit = int(self.query.get('maxResults', 10_000))
    return {'items': items[:limit], 'prefixes': [*prefixes][:limit]}

  def _send_content(self, content, generation):
    headers = {'x-goog-generation': generation, 'ETag': generation}
    status = 200
    if 'Range' in self.headers:
      first, _, last = self.headers['Range'].partition('=')[2].partition('-')
      if int(first) >= len(content):
        self._answer(416)
        return
      last = min(int(last or len(content)), len(content) - 1)
      headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
      content, status = content[int(first) : last + 1], 206
    self._answer(status, content, **headers)

  def _answer(self, status, content=b'', **headers):
    if isinstance(content, dict):
      content = json.dumps(content).encode()
      headers['Content-Type'] = 'application/json'
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, str(value))
    if status != 204:
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)
    self.wfile.flush()


@functools.lru_cache(maxsize=4096)
def _crc32c(content):
  return google_crc32c.Checksum(content).digest()


def _describe(name, content, generation):
  return {
    'name': name,
    'bucket': 'bucket',
    'size': str(len(content)),
    'crc32c': base64.b64encode(_crc32c(content)).decode(),
    'generation': str(generation),
    'metageneration': '1',
    'updated': '2026-01-01T00:00:00.000Z',
    'timeCreated': '2026-01-01T00:00:00.000Z',
  }


if __name__ == '__main__':
  server = _Server(pathlib.Path(sys.argv[1]))
  print(server.server_port, flush=True)
  server.serve_forever()
