"""Pages in a real Chromium: each part works by mouse and by keyboard."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.report import browser as browser_lib
from tests.report.made_up import FakeEvaluator, create_run
from vaegan_jax.evaluation import figures
from vaegan_jax.report.page import build_page

PROBE = '</script><img src=x onerror="window.hacked=1">'
_AXE = Path(os.environ.get('AXE_PATH', Path(__file__).parents[2] / '.axe'))
_AXE /= 'package/axe.min.js'

pytestmark = pytest.mark.skipif(
  browser_lib.EXECUTABLE is None, reason='needs Chromium (apt install chromium)'
)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  browser = browser_lib.Browser(tmp_path_factory.mktemp('profile'))
  yield browser
  browser.close()


@pytest.fixture(scope='module')
def show(browser, tmp_path_factory):
  """Returns a function that opens the page of made-up runs."""
  folder = tmp_path_factory.mktemp('pages')

  def show(*args, labels=('mse', 'geometric'), **options):
    runs = [
      create_run(label, *args, blur=0.5 + 0.1 * i)
      for i, label in enumerate(labels)
    ]
    options = {'title': 'runs', 'protocol': '', 'num_examples': 6} | options
    text = build_page(runs, **options)
    path = folder / f'{len(list(folder.iterdir()))}.html'
    path.write_text(text)
    browser.open(path.as_uri())
    browser.wait('Promise.resolve(painted).then(() => 1)')
    return browser

  yield show


def pixel(browser, column, x, y):
  """Returns a pixel of the picture in a column, as the page has painted it."""
  return browser.run(
    f'[...document.querySelectorAll(".column")[{column}].querySelector('
    f'"canvas").getContext("2d").getImageData({x}, {y}, 1, 1).data].slice(0, 3)'
  )


def style(browser, name):
  return browser.run(f'panes.style.getPropertyValue("--{name}")')


def center(browser, selector):
  """Scrolls to an element, and returns the place of its middle."""
  return browser.run(
    f'(() => {{ const e = document.querySelector("{selector}"); '
    'e.scrollIntoView({block: "center"}); const b = e.getBoundingClientRect(); '
    'return [b.x + b.width / 2, b.y + b.height / 2]; })()'
  )


def click(browser, selector):
  place = center(browser, selector)
  browser.mouse('mousePressed', *place)
  browser.mouse('mouseReleased', *place)


def focus(browser, selector):
  browser.run(f'document.querySelector("{selector}").focus()')


def change(browser, selector, value):
  """Sets a control, as a user's choice does."""
  browser.run(
    f'(() => {{ const e = document.querySelector("{selector}"); '
    f'e.value = "{value}"; e.dispatchEvent(new Event("input")); '
    'e.dispatchEvent(new Event("change")); })()'
  )


def check_quiet(browser):
  """Checks that no script failed, and nothing was requested."""
  for event in browser.events:
    name, params = event.get('method'), event.get('params', {})
    assert name != 'Runtime.exceptionThrown', params
    if name == 'Network.requestWillBeSent':
      assert params['request']['url'].startswith(('file:', 'data:')), params
    if name == 'Log.entryAdded':
      assert params['entry']['level'] != 'error', params


def check_accessible(browser):
  """Checks that axe-core finds nothing serious, in light and in dark."""
  if not _AXE.exists():
    pytest.skip('needs axe-core: npm pack axe-core in the folder .axe')
  browser.run(_AXE.read_text() + ';0')
  for scheme in ('light', 'dark'):
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.call('Emulation.setEmulatedMedia', features=features)
    found = browser.run(
      'axe.run({resultTypes: ["violations"]}).then((r) => r.violations.filter('
      '(v) => ["serious", "critical"].includes(v.impact)).map((v) => '
      '[v.id, v.nodes.map((n) => n.html)]))'
    )
    assert found == [], scheme


def test_photographs_are_compared_pixel_by_pixel(show):
  browser = show()
  evaluator = FakeEvaluator((12, 16, 3), blur=0.6)
  x = figures.to_uint8(evaluator.x[0])
  recon = figures.to_uint8(0.6 * evaluator.x[0])
  assert pixel(browser, 0, 5, 7) == x[7, 5].tolist()
  assert pixel(browser, 2, 15, 11) == recon[11, 15].tolist()
  # The slider shows the original from the left, in every run.
  focus(browser, '#split')
  browser.press('ArrowRight')
  assert style(browser, 'split') == '1%'
  # Holding shows the original: the pointer, a button, and the space bar.
  flicked = 'panes.matches(".flicked")'
  place = center(browser, '.column:nth-child(2) .view')
  browser.mouse('mousePressed', *place)
  assert browser.run(flicked)
  browser.mouse('mouseReleased', *place)
  assert not browser.run(flicked)
  for selector in ('#flick', '#panes'):
    focus(browser, selector)
    browser.press(' ', kinds=('keyDown',))
    assert browser.run(flicked), selector
    browser.press(' ', kinds=('keyUp',))
    assert not browser.run(flicked), selector
  # Panes have one zoom, down to single pixels, and one place.
  browser.press('+')
  click(browser, '#zoom-in')
  assert style(browser, 'zoom') == '4'
  before = float(style(browser, 'x'))
  focus(browser, '#panes')
  browser.press('ArrowRight')
  assert float(style(browser, 'x')) > before
  place = center(browser, '.column:nth-child(3) .view')
  browser.mouse('mousePressed', *place)
  browser.mouse('mouseMoved', place[0] + 50, place[1] + 20)
  browser.mouse('mouseReleased', place[0] + 50, place[1] + 20)
  assert float(style(browser, 'x')) < before + 0.025
  lefts = browser.run(
    '[...new Set([...document.querySelectorAll(".layer canvas")].map((c) => '
    '`${c.offsetLeft} ${c.offsetWidth > 3 * c.parentElement.offsetWidth}`))]'
  )
  assert len(lefts) == 1 and lefts[0].endswith('true')
  browser.press('0')
  assert style(browser, 'zoom') == '1'
  browser.mouse('mouseMoved', *center(browser, '.column .view'))
  values = browser.wait('document.querySelector("main output").value.trim()')
  mse = figures.to_uint8(0.5 * evaluator.x[0])
  expected = [' '.join(map(str, picture[6, 8])) for picture in (x, mse, recon)]
  assert (
    values
    == 'x 8, y 6 (8 bits): original {}; mse {}; geometric {}'.format(*expected)
  )
  click(browser, '#differences')
  assert browser.run(
    '[...document.querySelectorAll(".difference")].every((e) => '
    'e.closest("figure").hidden)'
  )
  check_quiet(browser)


def test_examples_have_an_order_numbers_and_keys(show):
  browser = show(num_examples=64, labels=('mse', 'geometric', 'third'))
  chosen = 'document.querySelector("[aria-current]").id'
  assert browser.run(chosen) == 'example-0'
  ids = '[...document.querySelectorAll(".strip button")].map((b) => b.id)'
  assert len(browser.run(ids)) == 64
  change(browser, '#order', 'psnr:best')
  assert browser.run(chosen) == 'example-69'
  change(browser, '#order', 'detail:worst')  # Detail falls where PSNR rises.
  assert browser.run(ids)[:2] == ['example-69', 'example-68']
  focus(browser, '#panes')
  browser.press('n')
  assert browser.run(chosen) == 'example-68'
  click(browser, '#previous')
  assert browser.run(chosen) == 'example-69'
  named = browser.run(f'document.getElementById({chosen}).ariaLabel')
  assert named == 'Example 69, Detail: rank 1 of 70, 1 is the worst'
  label = 'mse, example 69: PSNR (dB) 89, Detail 0.931'
  shown = 'document.querySelector(".column:nth-child(2) .view").ariaLabel'
  browser.wait(f'{shown} == "{label}"')
  click(browser, '#run-1')
  assert browser.run('document.querySelectorAll(".column")[2].hidden')
  # The table, and a part that is filled when it is opened by a key.
  assert browser.run('document.querySelector("#numbers td").textContent') == (
    '39.5'
  )
  focus(browser, '#sampled summary')
  browser.press('Enter')
  cell = 'document.querySelector("#sampled td")'
  assert browser.wait(f'{cell} && {cell}.textContent') == '31.0'
  focus(browser, '.chart [tabindex]')
  browser.press('ArrowLeft')
  read = browser.run('document.querySelector(".chart output").textContent')
  assert read == '1: mse 0.25, geometric 0.25, third 0.25'
  check_quiet(browser)


def test_a_page_of_64_pictures_and_three_runs_opens_at_once(show, browser):
  browser.call('Performance.enable', timeDomain='threadTicks')
  show((64, 64, 3), num_examples=64, labels=('mse', 'geometric', 'third'))
  values = browser.call('Performance.getMetrics')['metrics']
  seconds = {value['name']: value['value'] for value in values}
  assert seconds['TaskDuration'] < 2  # Of the processor: others may be busy.
  browser.call('Performance.disable')


def test_slices_of_volumes_move_together(show):
  browser = show((4, 6, 8, 1), (0,))
  x = figures.to_uint8(FakeEvaluator((4, 6, 8, 1)).x[0])[..., 0]
  half = figures.to_uint8(0.5 * FakeEvaluator((4, 6, 8, 1)).x[0])[..., 0]
  cuts = {0: np.s_[3, 5, 2], 1: np.s_[1, 4, 7], 2: np.s_[2, 3, 6]}
  shown = {0: (2, 5), 1: (7, 1), 2: (3, 2)}  # Column and row of that value.
  for axis, place in cuts.items():
    change(browser, '#axis', axis)
    change(browser, '#slice', place[axis])
    assert pixel(browser, 0, *shown[axis]) == [x[place]] * 3, axis
    assert pixel(browser, 1, *shown[axis]) == [half[place]] * 3, axis
  focus(browser, '#slice')
  browser.press('ArrowLeft')
  assert pixel(browser, 0, 3, 2) == [x[2, 3, 5]] * 3
  # The place is not one in the runs that get the folder later.
  path = Path(browser.run('location.pathname'))
  run = create_run('mse', (2, 4, 4, 1), (0,))
  path.write_text(build_page([run], title='runs', protocol='', num_examples=1))
  browser.events.clear()
  browser.run('save()')
  browser.call('Page.reload')
  browser.wait_for_load()
  assert browser.run('[state.axis, state.slices]') == [0, [1, 2, 2]]
  check_quiet(browser)
  check_accessible(browser)


def test_a_page_without_room_for_an_example_says_so(show):
  browser = show((32, 32, 32, 1), (0,), labels=('mse',), megabytes=0.13)
  text = browser.run('document.getElementById("examples").innerText')
  assert '0 of 70' in text and 'would exceed 0.13 MB' in text
  # Slices of the latents' volumes are smaller, and are painted.
  center = '(c => c.getContext("2d").getImageData(16, 16, 1, 1).data[3])'
  browser.wait(f'{center}(document.querySelector(".gallery canvas")) === 255')
  check_quiet(browser)


def test_bands_are_chosen(show):
  browser = show((6, 5, 7), (4, 3, 2), labels=('mse',))
  x = figures.to_uint8(FakeEvaluator((6, 5, 7)).x[0][..., None])[..., 0]
  assert pixel(browser, 0, 4, 1) == x[1, 4, [4, 3, 2]].tolist()
  change(browser, '#band-1', 6)
  assert pixel(browser, 0, 4, 1) == x[1, 4, [4, 6, 2]].tolist()
  check_quiet(browser)


def test_a_player_switches_without_losing_the_place(show):
  browser = show((4000, 1), (0,))
  assert browser.run('document.querySelectorAll(".playhead").length') == 3
  click(browser, '#play')
  place = 'Number(document.getElementById("seek").value)'
  browser.run('document.getElementById("loop").click()')
  assert 0 < browser.wait(place) <= 1
  focus(browser, '#track-0')
  browser.press('ArrowRight')
  assert browser.run('document.getElementById("track-1").checked')
  assert browser.run('document.getElementById("play").textContent') == 'Pause'
  now = browser.run(place)
  browser.wait(f'{place} !== {now}')
  click(browser, '#play')
  stopped = browser.run(place)
  focus(browser, '#track-1')
  browser.press('ArrowRight')
  time.sleep(0.1)
  assert browser.run(place) == stopped > 0
  # A click in a spectrogram chooses the run and the place.
  click(browser, '.column:nth-child(3) .view')
  assert browser.run('document.getElementById("track-2").checked')
  assert browser.run(place) == pytest.approx(0.5, abs=0.01)
  check_quiet(browser)
  check_accessible(browser)


def test_names_are_text_and_nothing_is_requested(show):
  browser = show(labels=(PROBE, 'b'), title=PROBE)
  assert browser.run('document.querySelector("h1").textContent') == PROBE
  assert PROBE in browser.run('document.body.textContent')
  check_quiet(browser)
  # The policy refuses what the page does not bring.
  outcome = browser.run(
    'fetch("http://127.0.0.1:9/").then(() => "sent", () => "refused")'
  )
  assert outcome == 'refused'
  browser.run(
    'document.body.append(Object.assign(document.createElement("script"), '
    '{textContent: "window.hacked = 1"}))'
  )
  assert browser.run('typeof window.hacked') == 'undefined'
  texts = [
    event['params']['entry']['text']
    for event in browser.events
    if event.get('method') == 'Log.entryAdded'
  ]
  assert any('Content Security Policy' in text for text in texts)


def test_a_page_reloads_while_the_run_trains_and_keeps_its_state(show):
  training = {'step': 1, 'total': 3, 'reload': 2}
  browser = show(training=training)
  assert 'step 1 of 3' in browser.run('document.body.textContent')
  browser.run(
    'split.value = 40; split.dispatchEvent(new Event("input")); '
    'order.focus(); window.scrollTo(0, 300); window.before = true'
  )
  kept = browser.wait(
    '!window.before && scrollY === 300 && (reload.checked = false, '
    'reload.dispatchEvent(new Event("change")), [document.activeElement.id, '
    'panes.style.getPropertyValue("--split")])'
  )
  assert kept == ['order', '40%']
  for _ in range(2):  # It may have begun to reload before it was told not to.
    browser.events.clear()
    time.sleep(2.5)
    browser.run('0')
  assert 'Page.loadEventFired' not in browser.names()


def test_a_page_does_not_reload_while_somebody_listens(show):
  training = {'step': 1, 'total': 3, 'reload': 0.4}
  browser = show((24_000, 1), (0,), labels=('a',), training=training)
  play = 'document.querySelector(".gallery button").click()'
  browser.wait(f'({play}, window.before = 1)')
  time.sleep(0.8)  # Of 3 seconds.
  assert browser.run('window.before') == 1
  browser.events.clear()
  browser.wait_for_load()  # When the sound has ended.
  # A page that takes longer to load than to reload is still loaded at once.
  assert browser.names().count('Page.frameNavigated') == 1


def test_a_phone_needs_no_sideways_scrolling(show):
  browser = show((64, 8, 3), labels=('mse', 'x' * 200))
  options = {'width': 360, 'height': 740, 'deviceScaleFactor': 2}
  browser.call('Emulation.setDeviceMetricsOverride', mobile=True, **options)
  assert browser.run('document.documentElement.scrollWidth') <= 360
  # A tall picture is seen whole.
  shape = '(b => [b.height, b.height / b.width])'
  view = 'document.querySelector(".view").getBoundingClientRect()'
  assert browser.run(f'{shape}({view})') == pytest.approx([592, 8], rel=0.02)
  check_accessible(browser)
  browser.call('Emulation.clearDeviceMetricsOverride')
