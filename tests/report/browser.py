"""A headless Chromium, by the DevTools protocol over a pair of pipes."""

import contextlib
import json
import os
import shutil
import subprocess
import time

EXECUTABLE = shutil.which('chromium') or shutil.which('google-chrome')
_FLAGS = (
  '--headless=new',
  '--no-sandbox',  # Root needs it; the pages are the tests' own.
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--hide-scrollbars',
  '--no-first-run',
  '--autoplay-policy=no-user-gesture-required',
  '--remote-debugging-pipe',
)


class Browser:
  """One tab; commands wait for their answer, and events are kept."""

  def __init__(self, profile):
    """Starts the browser with an empty profile in a folder."""
    (theirs_in, self._to), (self._from, theirs_out) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    self._process = subprocess.Popen(
      [
        *('bash', '-c', shell, 'chromium', EXECUTABLE, *_FLAGS),
        *(f'--user-data-dir={profile}', 'about:blank'),
      ],
      pass_fds=(theirs_in, theirs_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for descriptor in (theirs_in, theirs_out):
      os.close(descriptor)
    self._buffer, self._number, self._session = b'', 0, None
    self.events = []
    targets = self.call('Target.getTargets')['targetInfos']
    (tab,) = (t for t in targets if t['type'] == 'page')
    self._session = self.call(
      'Target.attachToTarget', targetId=tab['targetId'], flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Network', 'Log'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    """Sends a command and returns its result."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._to, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._number:
        assert 'error' not in answer, (method, answer['error'])
        return answer['result']
      self.events.append(answer)

  def _receive(self):
    while b'\0' not in self._buffer:
      part = os.read(self._from, 2**20)
      assert part, 'Chromium has ended'
      self._buffer += part
    message, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(message)

  def open(self, url):
    """Opens a page, and waits until it is loaded.

    An event may be that of the page before, which reloads by itself.
    """
    self.events.clear()
    self.call('Page.navigate', url=url)
    loaded = 'document.readyState === "complete"'
    self.wait(f'location.href === {json.dumps(url)} && {loaded}')

  def wait_for_load(self):
    """Waits for the event of a loaded page."""
    while 'Page.loadEventFired' not in self.names():
      self.events.append(self._receive())

  def names(self):
    """Returns the names of the events so far."""
    return [event.get('method') for event in self.events]

  def run(self, script):
    """Evaluates JavaScript, awaits what it returns, and returns its value."""
    answer = self.call(
      'Runtime.evaluate',
      expression=script,
      awaitPromise=True,
      returnByValue=True,
    )
    assert 'exceptionDetails' not in answer, answer['exceptionDetails']
    return answer['result'].get('value')

  def wait(self, condition):
    """Waits until an expression is true, and returns its value."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
      with contextlib.suppress(AssertionError):  # The page may be reloading.
        if value := self.run(condition):
          return value
      time.sleep(0.02)
    raise AssertionError(condition)

  def press(self, key, kinds=('keyDown', 'keyUp')):
    """Presses a key on what has the focus."""
    codes = {'ArrowLeft': 37, 'ArrowRight': 39, ' ': 32, 'Enter': 13}
    text = {'text': {'Enter': '\r'}.get(key, key)}
    text = {} if key.startswith('Arrow') else text
    for kind in kinds:
      options = text if kind == 'keyDown' else {}
      self.call(
        'Input.dispatchKeyEvent',
        type=kind,
        key=key,
        windowsVirtualKeyCode=codes.get(key, 0),
        **options,
      )

  def mouse(self, kind, x, y):
    """Sends 'mousePressed', 'mouseMoved' or 'mouseReleased' at a place."""
    self.call(
      'Input.dispatchMouseEvent',
      type=kind,
      x=x,
      y=y,
      button='none' if kind == 'mouseMoved' else 'left',
      buttons=int(kind != 'mouseReleased'),
      clickCount=int(kind != 'mouseMoved'),
    )

  def close(self):
    """Ends the browser."""
    self._process.terminate()
    self._process.wait()
    for descriptor in (self._to, self._from):
      os.close(descriptor)
