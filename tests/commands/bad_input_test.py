"""Bad input ends with exit status 2 and one message, before JAX compiles."""

import pytest


@pytest.mark.parametrize(
  ('arg', 'sentence'),
  (
    ('batchsize=4', 'did you mean --config.batch_size?'),
    ('seed=many', '--config.seed=many must be a whole number'),
    ('batch_size=-8', 'batch_size=-8 must be from 1 to'),
    ('batch_size=0', 'batch_size=0 must be from 1 to'),
    ('num_train_steps=0', 'num_train_steps=0 must be from 1 to'),
    ('data.image_size=-16', 'data.image_size=-16 must be from 1 to'),
    ('data.channels=0', 'data.channels=0 must be from 1 to 1024'),
    ('model.width=0', 'model.width=0 must be from 1 to'),
    ('model.latent_dim=-1', 'model.latent_dim=-1 must be from 1 to'),
    ('critic.depth=0', 'critic.depth=0 must be from 1 to'),
    ('loss.kl_weight=-1', 'loss.kl_weight=-1.0 must be at least 0'),
    ('loss.kl_weight=nan', 'must be a finite number'),
    (
      'data.image_size=18',
      '2**model.depth=2**2=4; 18 / 4 leaves 2: use 16 or 20',
    ),
    ('objective=hinge', "objective='hinge' must be 'geometric', 'wasserstein'"),
    ("loss.layers=('block_7',)", "'block_7', but the critic has block_0, bloc"),
    ('critic.norm=group', "critic.norm='group' divides the contrast of the"),
    ('model.norm=layer', "model.norm='layer' must be 'none', 'group', 'inst"),
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
