"""Synthetic cartoon faces with fine detail.

A blur destroys the details of a face: single strands of hair, eyelashes, thin
spectacle frames, freckles, and stripes, checks or dots on the clothes and
behind the head. The layout is simple enough to be learnt in minutes.

A face is drawn in one coordinate system, `SIZE` units on a side, at `_SCALE`
pixels per unit, and averaged down. It is the same on every machine: coordinates
are rounded to whole pixels before Pillow draws, and `random.random()`, whose
stream Python keeps, is the only source of randomness.
"""

import math
import random

import numpy as np

from vaegan_jax.data.source_bases import SyntheticSource

SIZE = 64
_SCALE = 3

_SKINS = (
  ((255, 224, 196), (236, 176, 150)),
  ((247, 203, 165), (224, 152, 118)),
  ((226, 171, 125), (196, 124, 88)),
  ((187, 126, 84), (150, 88, 58)),
  ((141, 88, 58), (106, 60, 40)),
  ((102, 64, 46), (74, 42, 30)),
)  # (face, shade)
_HAIRS = (
  ((38, 30, 34), (96, 84, 96)),
  ((74, 44, 28), (146, 96, 60)),
  ((128, 72, 34), (206, 140, 74)),
  ((196, 142, 60), (252, 222, 140)),
  ((158, 54, 28), (240, 132, 72)),
  ((120, 120, 130), (232, 232, 238)),
  ((40, 70, 130), (120, 180, 240)),
  ((150, 48, 108), (248, 150, 200)),
)  # (dark strand, light strand)
_FABRICS = (
  ((214, 62, 62), (255, 240, 226)),
  ((38, 84, 150), (236, 244, 252)),
  ((30, 124, 104), (246, 222, 130)),
  ((112, 70, 148), (246, 206, 232)),
  ((232, 142, 42), (70, 50, 60)),
  ((44, 48, 64), (240, 240, 240)),
)
_BACKDROPS = (
  ((140, 196, 228), (222, 240, 248)),
  ((248, 196, 130), (255, 238, 212)),
  ((158, 208, 146), (228, 244, 216)),
  ((214, 166, 210), (248, 228, 244)),
  ((176, 178, 198), (238, 238, 244)),
  ((242, 156, 142), (255, 224, 214)),
)
_IRISES = (
  (92, 58, 34), (54, 108, 168), (66, 124, 72), (98, 108, 122), (150, 100, 36)
)  # fmt: skip
_INK = (40, 30, 36)
_FRAMES = (_INK, (176, 40, 52), (30, 70, 140), (150, 110, 30))


def draw_face(index: int) -> np.ndarray:
  """Draws one face [64, 64, 3] uint8 RGB."""
  rng = random.Random(index)
  pen = _Pen()
  _draw_pattern(pen, rng, (0, 0, SIZE, SIZE), _pick(rng, _BACKDROPS))

  # A face never moves by more than 2 units: the layout stays learnable.
  x = 32 + rng.uniform(-2, 2)
  y = 32 + rng.uniform(-2, 2)
  half_width = rng.uniform(15, 17.5)
  half_height = rng.uniform(17.5, 20)
  skin, shade = _pick(rng, _SKINS)
  hair = _pick(rng, _HAIRS)
  style = _pick(rng, ('short', 'long', 'curly', 'bun'))

  _draw_back_hair(pen, rng, style, hair, x, y, half_width, half_height)
  _draw_body(pen, rng, x, y + half_height, shade)
  pen.ellipse(x - half_width, y + 1, 3, 4.5, shade)
  pen.ellipse(x + half_width, y + 1, 3, 4.5, shade)
  pen.ellipse(x, y, half_width, half_height, skin)
  _draw_cheeks(pen, rng, x, y, skin)
  _draw_eyes(pen, rng, x, y, hair[0])
  _draw_nose_and_mouth(pen, rng, x, y, half_height, shade)
  _draw_fringe(pen, rng, hair, x, y, half_width, half_height)
  if rng.random() < 0.45:
    _draw_glasses(pen, rng, x, y, half_width)
  return pen.finish()


class _Pen:
  """A pen in units of the final image, on a canvas `_SCALE` times larger."""

  def __init__(self, mode='RGB'):
    from PIL import Image, ImageDraw  # Not needed to know the source.

    self._image = Image.new(mode, (SIZE * _SCALE, SIZE * _SCALE))
    self._draw = ImageDraw.Draw(self._image)

  def ellipse(self, x, y, rx, ry, fill=None, outline=None, width=0.0):
    self._draw.ellipse(_around(x, y, rx, ry), fill, outline, _px(width))

  def box(self, left, top, right, bottom, fill):
    self._draw.rectangle(
      (_px(left), _px(top), _px(right) - 1, _px(bottom) - 1), fill=fill
    )

  def line(self, points, fill, width):
    self._draw.line(
      [(_px(x), _px(y)) for x, y in points], fill=fill, width=_px(width)
    )

  def arc(self, x, y, rx, ry, start, end, fill, width):
    """Draws an arc; angles are in degrees clockwise from the right."""
    self._draw.arc(_around(x, y, rx, ry), start, end, fill, _px(width))

  def stamp(self, other, x, y, rx, ry):
    """Copies what `other` has drawn within an ellipse."""
    mask = _Pen('1')
    mask.ellipse(x, y, rx, ry, 1)
    self._image.paste(other._image, mask=mask._image)

  def finish(self) -> np.ndarray:
    return np.asarray(self._image.reduce(_SCALE))


def _px(units: float) -> int:
  return round(units * _SCALE)


def _around(x, y, rx, ry) -> tuple[int, int, int, int]:
  return _px(x - rx), _px(y - ry), _px(x + rx), _px(y + ry)


def _pick(rng, options):
  return options[int(rng.random() * len(options))]


def _mix(a, b, amount: float) -> tuple[int, int, int]:
  """Interpolates from colour `a` to `b` by `amount`."""
  return tuple(round(p + (q - p) * amount) for p, q in zip(a, b, strict=True))


def _draw_pattern(pen, rng, box, colours, steps=(4, 5, 6)):
  """Fills a box with stripes, checks or dots of two colours."""
  left, top, right, bottom = box
  first, second = colours
  pen.box(*box, first)
  step = _pick(rng, steps)
  kind = _pick(rng, ('stripes', 'hoops', 'checks', 'dots'))
  columns = range(math.ceil((right - left) / step))
  rows = range(math.ceil((bottom - top) / step))
  if kind == 'stripes':
    for i in columns[::2]:
      pen.box(left + i * step, top, left + (i + 1) * step, bottom, second)
  elif kind == 'hoops':
    for j in rows[::2]:
      pen.box(left, top + j * step, right, top + (j + 1) * step, second)
  elif kind == 'checks':
    for i in columns:
      for j in rows[i % 2 :: 2]:
        x, y = left + i * step, top + j * step
        pen.box(x, y, x + step, y + step, second)
  else:
    for i in columns:
      for j in rows:
        x = left + (i + 0.5 * (j % 2)) * step
        pen.ellipse(x, top + (j + 0.5) * step, 1.2, 1.2, second)


def _strand(pen, rng, hair, points):
  """Draws a hair along `points`, in a colour between the two of `hair`."""
  pen.line(points, _mix(*hair, rng.random()), _pick(rng, (0.67, 0.67, 1)))


def _draw_back_hair(pen, rng, style, hair, x, y, half_width, half_height):
  rx, ry = half_width + 3.5, half_height + 3
  pen.ellipse(x, y - 2.5, rx, ry - 1, hair[0])
  if style == 'bun':
    bun_y = y - half_height - 4.5
    pen.ellipse(x, bun_y, 7, 6, hair[0])
    for r in (2, 3.5, 5, 6.3):
      start = rng.uniform(100, 200)
      pen.arc(x, bun_y, r + 0.7, r, start, start + 230, hair[1], 0.67)
  elif style == 'curly':
    for k in range(34):
      angle = math.pi * (0.92 + 1.16 * (k % 17) / 16)
      reach = 1.0 if k < 17 else 0.84
      curl_x = x + reach * (rx + 1) * math.cos(angle)
      curl_y = y - 2 + reach * (ry + 1) * math.sin(angle)
      r = rng.uniform(2.2, 3.2)
      pen.ellipse(curl_x, curl_y, r, r, hair[0], _mix(*hair, 0.8), 0.67)
  elif style == 'long':
    length = rng.uniform(16, 24)
    pen.box(x - rx, y - 3, x + rx, y + length, hair[0])
    for k in range(44):
      side = -1 if k % 2 else 1
      start = side * rng.uniform(0.55, 1) * rx
      end = start + side * rng.uniform(-0.5, 2.5)
      points = ((x + start, y - 9), (x + end, y + length + rng.uniform(-1, 3)))
      _strand(pen, rng, hair, points)


def _draw_body(pen, rng, x, chin, shade):
  """Draws the patterned clothes, the neck and a collar."""
  colours = _pick(rng, _FABRICS)
  cloth = _Pen()
  _draw_pattern(cloth, rng, (0, chin - 2, SIZE, SIZE), colours, (3, 4))
  pen.stamp(cloth, x, SIZE + 6, 28, SIZE + 6 - chin)
  pen.ellipse(x, chin + 1.5, 7.5, 4, colours[0])
  pen.box(x - 5.5, chin - 4, x + 5.5, chin + 1.5, shade)
  pen.ellipse(x, chin + 1.5, 5.5, 3, shade)


def _draw_cheeks(pen, rng, x, y, skin):
  """Draws blushing cheeks, and freckles on half of the faces."""
  for side in (-1, 1):
    blush = _mix(skin, (232, 92, 92), 0.3)
    pen.ellipse(x + side * 9.5, y + 6.5, 3.4, 2.2, blush)
  if rng.random() < 0.5:
    for _ in range(round(rng.uniform(14, 22))):
      fx = x + _pick(rng, (-1, 1)) * rng.uniform(3, 12.5)
      fy = y + rng.uniform(3, 9)
      pen.ellipse(fx, fy, 0.4, 0.4, _mix(skin, (110, 40, 20), 0.65))


def _draw_eyes(pen, rng, x, y, brow):
  """Draws eyes with an iris, a glint, lashes and brows of single hairs."""
  iris = _pick(rng, _IRISES)
  gaze = rng.uniform(-0.8, 0.8)
  lashes = _pick(rng, (1.2, 2.2))
  tilt = rng.uniform(-0.3, 0.8)
  for side in (-1, 1):
    ex, ey = x + side * 6.8, y - 1
    pen.ellipse(ex, ey, 3.8, 2.9, (252, 252, 252), _INK, 0.34)
    pen.ellipse(ex + gaze, ey, 2.3, 2.5, iris)
    pen.ellipse(ex + gaze, ey, 1.2, 1.3, (16, 14, 18))
    pen.ellipse(ex + gaze + 0.8, ey - 1, 0.6, 0.6, (255, 255, 255))
    for k in range(6):
      angle = math.pi * (1.1 + 0.8 * k / 5)
      root = (ex + 3.8 * math.cos(angle), ey + 2.9 * math.sin(angle))
      tip = (
        ex + (3.8 + lashes) * math.cos(angle),
        ey + (2.9 + lashes) * math.sin(angle),
      )
      pen.line((root, tip), _INK, 0.34)
    for k in range(8):
      bx = ex - 3.4 + 0.95 * k
      by = ey - 6.2 + side * tilt * (k - 3.5) / 3.5
      pen.line(((bx, by + 0.9), (bx + 0.7, by - 0.5)), brow, 0.67)


def _draw_nose_and_mouth(pen, rng, x, y, half_height, shade):
  line = _mix(shade, (60, 20, 20), 0.35)
  pen.arc(x, y + 4, 1.8, 1.8, 10, 170, line, 0.67)
  my = y + 0.58 * half_height
  lips = _pick(rng, ((196, 56, 66), (168, 66, 70), (224, 92, 104)))
  width = rng.uniform(5, 7)
  kind = _pick(rng, ('smile', 'laugh', 'lips', 'flat'))
  if kind == 'smile':
    pen.arc(x, my - 3, width, 4.5, 15, 165, lips, 1.34)
  elif kind == 'laugh':
    pen.ellipse(x, my, width, 3.4, (120, 24, 36), lips, 0.67)
    pen.box(x - width + 1.7, my - 2, x + width - 1.7, my, (255, 255, 255))
    for k in range(-2, 3):
      tooth = x + 1.8 * k
      pen.line(((tooth, my - 2), (tooth, my)), (176, 164, 164), 0.34)
  elif kind == 'lips':
    pen.ellipse(x, my, width - 1.5, 2.3, lips)
    pen.line(
      ((x - width + 1.5, my), (x + width - 1.5, my)), (104, 26, 40), 0.34
    )
  else:
    pen.line(((x - width + 1, my), (x + width - 1, my)), lips, 1.34)


def _draw_fringe(pen, rng, hair, x, y, half_width, half_height):
  """Draws strands that fall from a parting over the forehead."""
  parting = rng.uniform(-0.5, 0.5) * half_width
  drop = rng.uniform(0.3, 0.5) * half_height
  top = y - half_height - 2
  for k in range(64):
    spread = -1 + 2 * (k + rng.random()) / 64
    reach = spread * (half_width + 2.5)
    height = math.sqrt(max(0.0, 1 - (0.9 * spread) ** 2))
    end_y = y - half_height * height + drop * rng.uniform(0.5, 1) + 1
    start = (x + 0.25 * parting + 0.35 * reach, top - 0.6 * height)
    bend = (x + 0.8 * reach, (top + end_y) / 2 - 2.2 * height)
    _strand(pen, rng, hair, (start, bend, (x + reach, end_y)))


def _draw_glasses(pen, rng, x, y, half_width):
  frame = _pick(rng, _FRAMES)
  square = rng.random() < 0.4
  for side in (-1, 1):
    ex, ey = x + side * 6.8, y - 0.6
    if square:
      corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
      points = [(ex + 5.4 * a, ey + 4.4 * b) for a, b in corners]
      pen.line(points, frame, 0.67)
    else:
      pen.ellipse(ex, ey, 5.6, 5.4, None, frame, 0.67)
    arm = ((ex + side * 5.6, ey - 1), (x + side * (half_width + 1), ey - 2))
    pen.line(arm, frame, 0.67)
  pen.line(((x - 1.2, y - 1.5), (x + 1.2, y - 1.5)), frame, 0.67)


class Source(SyntheticSource):
  """4,000 faces to train with and 512 held out, 64 x 64 RGB."""

  name = 'drawn_faces'
  generate = staticmethod(draw_face)
  holds_arrays = False
  num_bytes = 17_318_058  # As PNG files.
