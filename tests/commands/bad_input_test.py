"""Bad data and data fields end with exit status 2, before JAX compiles."""

import pytest


@pytest.mark.parametrize(
  ('arg', 'sentence'),
  (
    ('data.image_size=18', '18 / 4 leaves 2: use 16 or 20'),
    ('critic.norm=group', "critic.norm='group'"),
    ('data.train_split=tran', "'tran', which cannot be read from image_folder"),
  ),
)
def test_a_bad_value(arg, sentence, told, tiny_run):
  assert sentence in told(*tiny_run, f'--config.{arg}')


def test_an_unknown_dataset(told, tiny_run):
  path = '--config.data.path='  # Other datasets do not use it.
  assert 'such as celeb_a' in told(*tiny_run, '--config.data.name=celeb', path)


@pytest.mark.parametrize(
  ('damaged', 'whole', 'sentence'),
  (
    (None, 0, 'which does not exist'),
    (0, 0, 'in which there is no image'),
    (3, 0, 'in which 3 of 3 images are damaged'),
    (2, 8, 'in which 2 of 10 images are damaged'),
    (0, 1, "leaves no image for the split 'train'"),
  ),
)
def test_a_bad_folder(
  damaged, whole, sentence, told, tiny_run, tmp_path, image_folder
):
  folder = tmp_path / 'images'
  if damaged is not None:
    folder.mkdir()
    for index in range(damaged):
      (folder / f'damaged_{index}.png').write_bytes(b'\x89PNG no more')
    for path in sorted(image_folder.iterdir())[:whole]:
      (folder / path.name).write_bytes(path.read_bytes())
  assert sentence in told(*tiny_run, f'--config.data.path={folder}')
