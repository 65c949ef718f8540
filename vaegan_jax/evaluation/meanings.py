"""One sentence on each metric of `metrics.TABLE`, for readers of a report."""

from typing import NamedTuple


class Meaning(NamedTuple):
  """The meaning of a metric.

  Attributes:
    text: what it means, and its value for identical examples or its floor.
    sign: 1 if higher is better, -1 if lower is, 0 if neither.
  """

  text: str
  sign: int = 0


MEANINGS = {
  'psnr': Meaning('Agreement of the values; identical: 106.', 1),
  'ssim': Meaning('Agreement of local structure; identical: 1.', 1),
  'low_frequency_psnr': Meaning(
    'Agreement of the means of 8x8 blocks: colour and brightness; '
    'identical: 106.',
    1,
  ),
  'log_spectral_distance': Meaning(
    'Distance of the spectra over time; identical: 0, two noises of one '
    'colour: 7.9.',
    -1,
  ),
  'mel_distance': Meaning('Distance of log-mel spectra; identical: 0.', -1),
  'stft_distance': Meaning(
    'Distance of spectra at three resolutions; identical: 0.', -1
  ),
  'si_sdr': Meaning(
    'The part along the original over the rest, of waveforms; identical: 100.',
    1,
  ),
  'detail': Meaning(
    'Share of the fine detail that is reproduced in its place; identical: 1, '
    'noise: 0.',
    1,
  ),
  'energy': Meaning(
    'Energy of the fine detail, wherever it is; the originals have 1. '
    'Noise raises it, too.'
  ),
  'false_detail': Meaning(
    'Energy of the fine detail out of its place, in units of the originals; '
    'identical: 0.',
    -1,
  ),
  'lpips': Meaning(
    'Perceptual distance in the features of VGG16; identical: 0.', -1
  ),
  'lpips_alex': Meaning(
    'Perceptual distance in the features of AlexNet; identical: 0.', -1
  ),
  'dists': Meaning(
    'Perceptual distance whose texture may move; identical: 0.', -1
  ),
  'kid': Meaning(
    'Distance between the sets of features, unbiased: around 0 for equal sets.',
    -1,
  ),
  'frechet': Meaning(
    'Frechet distance between the sets of features, to be read with its floor.',
    -1,
  ),
  'frechet_floor': Meaning('The same between two halves of the originals.'),
  'judge': Meaning(
    'Distance in a network trained on held-out examples; identical: 0.', -1
  ),
  'judge_frechet': Meaning(
    'Frechet distance in that network, to be read with its floor.', -1
  ),
  'judge_floor': Meaning('The same between two halves of the originals.'),
  'grid': Meaning(
    'Share of structure in reconstructions of constant pictures; identical: 0.',
    -1,
  ),
  'distance': Meaning(
    'Distance in the features of a critic of the runs, as in training: only '
    'comparable under one critic; identical: 0.',
    -1,
  ),
  'kl': Meaning('Information in the latent, in nats per example.'),
  'rate': Meaning('Information in the latent, in bits per example.'),
  'perplexity': Meaning('Equally frequent codes with the same entropy.'),
  'usage': Meaning('Share of codes that are used.'),
  'largest_share': Meaning('Share of the most frequent code.'),
  'runs': Meaning('Runs of the study.'),
  'failures': Meaning('Runs that diverged or crashed.'),
}
