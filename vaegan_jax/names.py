"""The names that a configuration may use, each written once.

Every module may import this file, so each table of names exists once.
"""

# Critic objectives, in the order in which they are listed to users. 'mse' has
# no critic; `losses/adversarial.py` has the losses of the others.
ADVERSARIAL_OBJECTIVES = (
  'geometric',
  'wasserstein',
  'wasserstein_gp',
  'vanilla',
  'non_saturating',
  'least_squares',
)
OBJECTIVES = (*ADVERSARIAL_OBJECTIVES, 'mse')
UPDATE_ORDERS = ('alternating', 'simultaneous')

NORMS = ('none', 'group', 'instance', 'batch')
NETWORKS = ('plain', 'residual')
# What a critic gets of an example: all have the example itself in some sizes,
# and sounds also spectra over time and their samples by phase.
VIEWS = ('wave', 'stft', 'period')
LAYOUTS = ('own', 'ldm', 'tiny', 'oobleck')
TRAINED_PARTS = ('all', 'decoder', 'none')
ACTIVATIONS = ('own', 'snake')
DTYPES = ('float32', 'bfloat16')
# Convolutions in each of the five stages of VGG.
VGG_CONVOLUTIONS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}
PRETRAINED_CRITICS = (*VGG_CONVOLUTIONS, 'lpips')

# Who opens an export: `vaegan_jax.load`, diffusers, or `jax.export`.
EXPORT_FORMATS = ('own', 'diffusers', 'stablehlo')
REPORT_FILE = 'report.html'  # The page, in a folder of runs.

CODE_LATENTS = ('vq', 'fsq', 'lfq')
LATENTS = ('gaussian', *CODE_LATENTS, 'none')
LATENT_SHAPES = ('flat', 'map')

# Options of the perceptual distance.
NORMALIZATIONS = ('none', 'unit', 'relative', 'batch', 'local')
REDUCTIONS = ('sum', 'mean', 'spatial')
DISTANCE_NORMS = ('l1', 'l2', 'log')
