"""The parts of a split that is named as TFDS names splits: 'train[:90%]'."""

from vaegan_jax.data.source import Dataset
from vaegan_jax.errors import UserError


def find_parts(
  dataset: Dataset, split: str, field: str
) -> list[tuple[str, int, int]]:
  """Finds the examples of a split.

  Args:
    dataset: an opened source.
    split: a TFDS split, such as 'train', 'train[:90%]' or 'train+test'.
    field: the configuration field of `split`, for error messages.

  Returns:
    (name, first, end) for each part.

  Raises:
    UserError: the split is unknown or empty.
  """
  try:
    if split in dataset.counts:
      parts = [(split, 0, dataset.counts[split])]
    else:
      parts = _parse(dataset, split)
    if any(first < end for _, first, end in parts):
      return parts
    reason = 'it is empty'
  except (ValueError, AssertionError, NotImplementedError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
  names = ', '.join(map(repr, dataset.counts))
  raise UserError(
    f'{field} is {split!r}, which cannot be read from {dataset.name} '
    f'({reason}); it has the splits {names}, and slices such as '
    f"'{next(iter(dataset.counts))}[:90%]'."
  )


def _parse(dataset: Dataset, split: str) -> list[tuple[str, int, int]]:
  """Reads a split as TFDS does; see `find_parts`."""
  import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

  infos = {
    name: tfds.core.SplitInfo(
      name=name,
      shard_lengths=list(dataset.shards.get(name, [count])),
      num_bytes=0,
      filename_template=None,
    )
    for name, count in dataset.counts.items()
  }
  instruction = tfds.core.splits.AbstractSplit.from_spec(split)
  parts = []
  for part in instruction.to_absolute(infos):  # None stands for an end.
    name = str(part.splitname)
    end = dataset.counts[name] if part.to is None else part.to
    parts.append((name, part.from_ or 0, end))
  return parts
