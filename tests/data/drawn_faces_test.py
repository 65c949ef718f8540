"""Drawn faces: the same everywhere, and full of fine detail."""

import hashlib

import numpy as np

from vaegan_jax.data import drawn_faces


def test_drawn_faces_are_the_same_on_every_machine():
  # Changes with the drawing, or with Pillow's: then raise DrawnFaces.VERSION.
  faces = np.stack([drawn_faces.draw_face(index) for index in range(8)])
  assert faces.shape == (8, 64, 64, 3)
  assert faces.dtype == np.uint8
  assert hashlib.sha256(faces.tobytes()).hexdigest()[:16] == 'b927f3c4393f9edd'


def test_drawn_faces_have_detail_that_a_blur_destroys():
  face = drawn_faces.draw_face(0).astype(float)
  neighbours = sum(
    np.roll(face, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
  )
  assert np.std(face - neighbours / 9) > 0.2 * np.std(face)
