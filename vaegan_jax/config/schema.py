"""The fields of a configuration, one row each.

A row has a field's name, default, rule and meaning. It also says what a
`config.json` of an earlier version meant without the field, and whether a
resumed run may change it. A new field is one row: its flag, its validation and
its reading from old workdirs follow. `validation.py` checks what the fields
must be together.
"""

import functools

import ml_collections

from vaegan_jax import names
from vaegan_jax.config import rules
from vaegan_jax.config.rules import Field, between, each_once, one_of

# A field of the first version.
_first = functools.partial(Field, absent=rules.REQUIRED)

# fmt: off
FIELDS = (
  _first('seed', 0, between(0, 2**32 - 1),
         'Seed of the weights, data order, augmentation and latent noise.'),
  Field('init_from', '', rules.PATH, resumable=True,
        help='Workdir or export of a run from whose weights this one starts, '
        'or folder of an autoencoder of diffusers; or empty.'),
  _first('objective', 'geometric', one_of(*names.OBJECTIVES),
         "Loss of the critic; 'geometric' is the hinge loss, 'mse' a VAE with "
         'a loss on pixels and no critic.'),
  _first('update_order', 'alternating', one_of(*names.UPDATE_ORDERS),
         "'alternating' computes the distance with the updated critic, "
         "'simultaneous' shares one critic pass and is cheaper."),
  _first('ema_decay', 0.999, rules.DECAY,
         'Decay of the average of weights that is evaluated; 0: no average.'),
  _first('batch_size', 64, between(1, 2**16),
         'Examples per update, over all devices.'),
  _first('num_train_steps', 20_000, rules.COUNT,
         'Updates of the run.', resumable=True),
  _first('log_every_steps', 100, rules.COUNT,
         'Steps between logged metrics.', resumable=True),
  _first('checkpoint_every_steps', 1_000, rules.COUNT,
         'Steps between checkpoints.', resumable=True),
  _first('eval_every_steps', 2_000, rules.COUNT,
         'Steps between evaluations.', resumable=True),
  _first('figure_every_steps', 1_000, rules.COUNT,
         'Steps between figures.', resumable=True),
  _first('num_eval_images', 512, rules.COUNT_OR_ZERO,
         'Held-out examples that training evaluates; 0: the whole split.',
         resumable=True),
  _first('num_checkpoints', 3, rules.COUNT,
         'Number of the newest checkpoints that are kept.', resumable=True),
  _first('max_skipped_steps', 20, rules.COUNT,
         'Consecutive non-finite updates that end a run.', resumable=True),
  Field('profile_steps', (), rules.STEPS,
        'First and last step that are profiled; empty: none.', resumable=True),

  _first('data.name', 'drawn_faces', rules.NOT_EMPTY,
         "'image_folder', 'array_folder', 'drawn_faces', 'drawn_bands', "
         "'drawn_sounds', 'drawn_volumes', a source of docs/sources.md or a "
         'TFDS name.'),
  _first('data.path', '', rules.DATA_PATH, resumable=True,
         help='Folder or file of a source that reads yours, such as '
         "'image_folder'; local or gs://..."),
  Field('data.folder_rules', 4, between(1, 4), absent=1,
        help='How a folder is read and split; 3, 2 and 1: as earlier versions '
        'did.'),
  Field('data.group_by', '', rules.GROUP_BY,
        "Files that a split of a folder keeps together: 'folder', or a regular "
        'expression of relative names, whose groups or match is the key; '
        'empty: none.'),
  Field('data.allow_growth', False, rules.ANY, resumable=True,
        help='Whether a run resumes although its folder has more images.'),
  Field('data.feature', '', rules.ANY,
        "Feature of a TFDS dataset with the examples; empty: 'image', or the "
        'only numeric one. Key of an array, column or kind of file of other '
        'sources.'),
  Field('data.example_axis', 0, between(-4, 4),
        "Axis of the examples in an 'array_file'; -1: the last."),
  _first('data.data_dir', '', rules.DATA_PATH, resumable=True,
         help='Folder of prepared data, or gs://...; empty: '
         '~/tensorflow_datasets.'),
  Field('data.copy_dir', '', rules.LOCAL_PATH, resumable=True,
        help='Folder of local copies of data in a bucket; empty: data_dir if '
        'local, else ~/tensorflow_datasets.'),
  _first('data.image_size', 64, rules.IMAGE_SIZE,
         'Height and width in pixels, after the crop: one number or a pair.'),
  Field('data.shape', (), rules.SHAPE,
        'Spatial shape of arrays, cropped by `crop`: (samples,), '
        '(height, width) or (depth, height, width); empty: image_size.'),
  Field('data.crop', 'center', one_of('center', 'random'),
        "Where larger arrays are cropped: 'center', one example each, or "
        "'random', which trains on crops from anywhere in them and evaluates "
        'on a grid.'),
  Field('data.axes', '', rules.AXES,
        "Axes of the stored arrays in their order, such as 'CYX'; empty: as "
        'the files declare, else channels absent, last or first.'),
  Field('data.nodata', '', rules.NODATA,
        'Value of arrays that means no data, besides NaN; empty: what each '
        "file declares; 'none': nothing does."),
  Field('data.max_nodata', 0.0, between(0.0, 1.0),
        help="Largest share of an array's values that may be missing, which "
        'counts in no range, loss or metric; arrays with more are skipped.'),
  Field('data.sample_rate', 16_000, rules.COUNT,
        'Samples per second of sounds.'),
  Field('data.resample', False, rules.ANY,
        'Whether sounds at other rates are resampled to sample_rate.'),
  Field('data.mix_channels', False, rules.ANY,
        'Whether sounds with several channels are averaged into one, or those '
        'with one repeated, where channels differs.'),
  Field('data.mid_side', False, rules.ANY,
        'Whether the networks take stereo sounds as mid and side: half the sum '
        'and half the difference of left and right.'),
  _first('data.channels', 3, between(1, 2**10),
         '1 gray, 2 gray and alpha, 3 RGB, 4 RGBA; any number for arrays.'),
  Field('data.value_range', 'dtype', rules.VALUE_RANGE,
        "Values that map to [-1, 1]: 'dtype', the range of the files' integer "
        "type; 'percentiles', 0.1 to 99.9 of the training split; or a pair."),
  Field('data.clip', False, rules.ANY, resumable=True,
        help='Whether value_range is meant to clip more than one value in a '
        'hundred.'),
  Field('data.shown_bands', (), each_once(0, 2**10 - 1), resumable=True,
        help='Channels that figures show, three or one; empty: all of images, '
        'the first of arrays.'),
  _first('data.center_crop', 0, rules.COUNT_OR_ZERO,
         'Size of the square center crop; 0: the largest that fits.'),
  _first('data.train_split', 'train', rules.NOT_EMPTY,
         'Split that is trained on.'),
  _first('data.eval_split', 'test', rules.NOT_EMPTY,
         'Split that is evaluated.', resumable=True),
  _first('data.random_flip', True, rules.ANY,
         'Whether half of the training images are mirrored; never arrays.'),
  Field('data.random_crop_margin', 0, between(0, 2**12),
        'Extra pixels per axis that training crops at random.'),
  Field('data.flip_axes', (), each_once(0, 2),
        'Axes that training mirrors, 0 the height of images, 1 the width; '
        'empty: the width if random_flip.'),
  _first('data.cache_images', True, rules.ANY, resumable=True,
         help='Whether decoded examples are kept in a memory map on disk.'),

  Field('model.network', 'plain', one_of(*names.NETWORKS),
        "'plain', a stack of convolutions, or 'residual', residual blocks with "
        'optional attention.'),
  _first('model.width', 32, between(1, 2**13),
         'Channels of the first block, before its multiplier.'),
  _first('model.depth', 4, between(1, 12),
         'Number of downsampling blocks, and of upsampling blocks.'),
  _first('model.channel_multipliers', (1, 2, 4, 8), rules.MULTIPLIERS,
         "Factors on width, one per downsampling; 'residual' has one more, the "
         'first, at full resolution.'),
  Field('model.num_res_blocks', 1, between(1, 16),
        "Blocks per resolution of 'residual'."),
  Field('model.attention_sides', (), each_once(1, 2**13),
        "Shorter sides of the feature maps with attention, for 'residual'."),
  Field('model.middle_attention', False, rules.ANY,
        "Whether 'residual' has attention at the lowest resolution."),
  Field('model.layout', 'own', one_of(*names.LAYOUTS),
        "Layers: 'own', or one by one those of latent-diffusion, 'ldm', of "
        "TAESD, 'tiny', or, for sounds, of Stable Audio, 'oobleck'."),
  Field('model.num_groups', 0, between(0, 2**13),
        "Groups of the norms of 'ldm'; 0: 32, or the most that divide width."),
  Field('model.quant_convs', True, rules.ANY,
        "Whether 'ldm' has a 1x1 convolution on either side of the latent."),
  Field('model.train', 'all', one_of(*names.TRAINED_PARTS),
        "What moves: 'all'; the 'decoder', so that the encoder and the latents "
        "stay as they began; or 'none', the critic alone."),
  Field('model.latent', 'gaussian', one_of(*names.LATENTS),
        "'gaussian'; discrete codes: 'vq' (learned codebook), 'fsq' (rounded), "
        "'lfq' (signs); or 'none', a plain autoencoder."),
  Field('model.latent_shape', 'flat', one_of(*names.LATENT_SHAPES),
        "'flat', one vector per example, or 'map', one per position."),
  _first('model.latent_dim', 128, between(1, 2**16),
         'Size of a latent vector.'),
  Field('model.code_dim', 8, between(1, 2**10),
        "Size of a code of 'vq', or bits of a code of 'lfq'."),
  Field('model.codebook_size', 512, between(2, 2**24), "Codes of 'vq'."),
  Field('model.unit_codes', False, rules.ANY,
        "Whether codes of 'vq' have length 1."),
  Field('model.fsq_levels', (8, 6, 5), rules.LEVELS,
        "Levels of 'fsq', one per entry of a code; their product is the number "
        'of codes.'),
  _first('model.norm', 'none', one_of(*names.NORMS),
         "Norm of 'plain'; 'residual' always has GroupNorm."),
  Field('model.activation', 'own', one_of(*names.ACTIVATIONS),
        "'own', the leaky ReLU of 'plain' or the swish of 'residual', or "
        "'snake', periodic, for sounds."),
  Field('model.strides', (), rules.STRIDES,
        'Factor of each downsampling, such as "(2, 4, 8)"; empty: 2 each.'),
  Field('model.patch_size', 1, between(1, 16),
        'Side of the squares of pixels that the encoder takes and the decoder '
        'returns as channels of one position.'),
  Field('model.kernel_size', 3, rules.KERNEL_SIZE,
        "Size of the convolutions without a stride: all of 'residual', the "
        "first and the last of the decoder of 'plain'."),
  Field('model.spectral_mask', 0, between(0, 2**14),
        "Samples in a frame of the mask of a sound's spectra with which the "
        "decoder of 'plain' ends; 0: no mask."),
  Field('model.spectral_noise', False, rules.ANY,
        'Whether the mask adds noise, with a level for each frequency of each '
        'frame.'),
  Field('model.dtype', 'float32', one_of(*names.DTYPES),
        'Type that the convolutions compute in.'),
  Field('model.remat', False, rules.ANY,
        'Whether blocks are recomputed in the backward pass to save memory.'),

  _first('critic.network', 'plain',
         one_of(*names.NETWORKS, *names.PRETRAINED_CRITICS),
         "'plain' or 'residual' are trained; 'vgg16', 'vgg19' and 'lpips' are "
         'frozen and read `weights`, and none of the fields below.'),
  _first('critic.weights', '', rules.LOCAL_PATH, resumable=True,
         help="File of VGG, torchvision's .pth or .safetensors; for 'lpips' "
         "VGG16's file, a comma, the file of the heads."),
  _first('critic.width', 32, between(1, 2**13),
         'Channels of the first block, before its multiplier.'),
  _first('critic.depth', 4, between(1, 12), 'Number of downsampling blocks.'),
  _first('critic.channel_multipliers', (1, 2, 4, 8), rules.MULTIPLIERS,
         "Factors on width, as the model's."),
  Field('critic.patch_size', 1, between(1, 16),
        'Side of the squares of pixels that are channels of the input of '
        "'wave', at each scale."),
  _first('critic.norm', 'none', one_of(*names.NORMS),
         'Norm of the blocks; any but none divides the contrast away, which '
         'loss.image_weight restores.'),
  _first('critic.spectral_norm', False, rules.ANY,
         'Whether each kernel, as a matrix, has largest singular value 1; the '
         'norm of its convolution was measured at 1.3 to 2.0.'),
  Field('critic.dtype', 'float32', one_of(*names.DTYPES),
        'Type that the convolutions compute in; penalties use float32.'),
  Field('critic.head', 'dense', one_of('dense', 'patch'),
        "'dense', one logit per example, or 'patch', a map of logits."),
  Field('critic.num_scales', 1, between(1, 4),
        "Number of critics of 'patch', each at half the previous resolution."),
  Field('critic.views', ('wave',), rules.VIEWS,
        "What critics of sounds get: 'wave', the sound at num_scales "
        "resolutions; 'stft', its complex spectra; 'period', every n-th "
        "sample. Others have 'wave' alone."),
  Field('critic.stft_windows', (1024, 512, 256), rules.STFT_WINDOWS,
        "Samples in a frame of 'stft', one critic each."),
  Field('critic.stft_bands', (), rules.BANDS,
        "Shares of the frequencies at which 'stft' is cut into bands with a "
        'critic each; empty: one band.'),
  Field('critic.periods', (2, 3, 5, 7, 11), rules.PERIODS,
        "Samples between those of 'period', one critic each."),
  _first('critic.num_steps', 1, between(1, 100),
         'Critic steps per update, each on its own examples.'),
  Field('critic.warmup_steps', 0, rules.COUNT_OR_ZERO,
        help='Updates that train the critic alone, before the others.'),
  _first('critic.long_round_steps', 0, rules.COUNT_OR_ZERO,
         'Critic steps before each of the first updates; 0: off.'),
  _first('critic.weight_clip', 0.0, rules.WEIGHT,
         'Largest absolute weight of the critic; 0: off.'),
  _first('critic.gradient_penalty_weight', 0.0, rules.WEIGHT,
         'Weight of the gradient penalty between examples and '
         'reconstructions; 0: off.'),
  _first('critic.r1_weight', 1.0, rules.WEIGHT,
         'Weight of the gradient penalty at examples, R1; 0: off.'),
  _first('critic.r1_every_steps', 16, rules.COUNT,
         'Steps between R1 penalties.'),
  _first('critic.lecam_weight', 0.0, rules.WEIGHT,
         "Weight of LeCam's penalty, which holds logits near the other side's "
         'moving average; 0: off.'),
  _first('critic.lecam_decay', 0.99, rules.DECAY,
         'Decay of these moving averages.'),
  _first('critic.prior_fakes', False, rules.ANY,
         'Whether samples from the prior are fakes too.'),

  _first('loss.layers', (), rules.NAMES,
         'Critic layers in the distance, by name; empty: all.'),
  _first('loss.layer_weights', (), rules.WEIGHTS,
         'Weights of the layers; empty: all 1.'),
  _first('loss.normalize', 'local', one_of(*names.NORMALIZATIONS),
         "What features are divided by: 'local', the size at each position and "
         "part of the batch's; 'batch', the batch's; 'relative', the "
         "example's; 'unit', the position's; 'none', as in the post."),
  _first('loss.reduction', 'mean', one_of(*names.REDUCTIONS),
         "Reduction of one layer's features: 'mean', 'sum' (the post), or "
         "'spatial', sum over channels and mean over positions."),
  Field('loss.distance_weight', 1.0, rules.WEIGHT,
        'Weight of the perceptual distance; 0: off.'),
  Field('loss.min_size', 0.1, between(0.0, 1.0), absent=0.0,
        help="Least size of a batch's layer, as a share of its size in the "
        'data, that it is divided by if nearly silent; 0: its own.'),
  Field('loss.image_weight', 1.0, rules.WEIGHT, absent=0.0,
        help='Weight of the image as a layer of the distance; 0: off.'),
  Field('loss.image_halvings', 3, between(0, 12), absent=0,
        help='Lower resolutions at which the image is a layer too.'),
  Field('loss.image_growth', 1.0, between(0.125, 8.0),
        help='Factor of that weight for each halving.'),
  Field('loss.image_high_pass', 1.0, rules.WEIGHT, absent=0.0,
        help='Weight of the image less its half-size copy as a layer, in units '
        'of image_weight; 0: off.'),
  Field('loss.norm', 'l2', one_of(*names.DISTANCE_NORMS),
        "How the layers' differences count: 'l2', squared; 'l1', absolute; "
        "'log', the logarithm of an example's mean square."),
  Field('loss.spectrum_weight', 0.0, rules.WEIGHT,
        'Weight of each log-mel spectrum of a sound as a layer of the '
        "distance, also of 'mse', which then has no other pixel loss; 0: off."),
  Field('loss.variance', 'half', one_of('half', 'optimal'),
        "Variance of the pixels for 'mse': 'optimal' is the mean squared "
        'error itself.'),
  _first('loss.pixel_weight', 0.0, rules.WEIGHT,
         'Weight of the squared pixel error, besides the distance; 0: off.'),
  _first('loss.adversarial_weight', 0.2, rules.WEIGHT,
         "Weight of the autoencoder's adversarial loss; 0: off."),
  _first('loss.adversarial_ramp_steps', 0, rules.COUNT_OR_ZERO,
         'Steps in which that weight rises linearly from 0.'),
  _first('loss.adversarial_to_encoder', True, rules.ANY,
         'Whether the adversarial loss trains the encoder, or the decoder '
         'alone.'),
  _first('loss.adaptive_weight', False, rules.ANY,
         'Whether adversarial_weight is multiplied by the ratio of gradient '
         'norms.'),
  _first('loss.kl_weight', 1e-2, rules.WEIGHT,
         'Weight of the KL divergence, against a distance of about 1.'),
  Field('loss.rate', 0.0, rules.WEIGHT,
        'Bits per example to which the KL weight is steered, from kl_weight '
        'on; 0: it stays.'),
  Field('loss.equivariance_weight', 0.0, rules.WEIGHT,
        'Weight of the squared error between the decoded latent map at half '
        'its size and the example at half its size; 0: off.'),
  Field('loss.drift_weight', 0.0, rules.WEIGHT,
        'Weight of the squared error between the images of the decoder and '
        'those of the decoder of init_from, for the same latents.'),
  Field('loss.commitment_weight', 0.25, rules.WEIGHT,
        "Weight of the commitment loss of 'vq' and 'lfq'."),
  Field('loss.entropy_weight', 0.1, rules.WEIGHT,
        "Weight of the entropy loss of 'lfq'."),

  _first('optimizer.name', 'adam', one_of('adam', 'rmsprop'),
         "Optimizer of both networks; 'rmsprop' ignores b1 and b2."),
  _first('optimizer.autoencoder_learning_rate', 1e-3, rules.POSITIVE,
         'Learning rate of the autoencoder.'),
  Field('optimizer.muon_learning_rate', 0.01, rules.WEIGHT, absent=0.0,
        help="Learning rate of Muon for the autoencoder's kernels; 0: off."),
  _first('optimizer.critic_learning_rate', 1e-3, rules.POSITIVE,
         'Learning rate of the critic.'),
  _first('optimizer.b1', 0.5, rules.DECAY, 'Decay of the first moment.'),
  _first('optimizer.b2', 0.999, rules.DECAY, 'Decay of the second moment.'),
  _first('optimizer.warmup_steps', 0, rules.COUNT_OR_ZERO,
         'Steps in which the learning rates rise from 0.'),
  _first('optimizer.schedule', 'constant', one_of('constant', 'cosine'),
         "'cosine' decays the learning rates to 0 at num_train_steps."),
  _first('optimizer.max_grad_norm', 0.0, rules.WEIGHT,
         'Norm to which larger gradients are clipped; 0: off.'),
  Field('optimizer.accumulate_steps', 1, between(1, 1024),
        'Parts of a batch that are computed one after the other to save '
        'memory; batch_size is still that of an update.'),

  _first('health.on_failure', 'warn', one_of('warn', 'stop', 'rollback'),
         "What a failed health check does; 'rollback' restores a healthy "
         'checkpoint.', resumable=True),
  _first('health.patience_steps', 500, rules.COUNT,
         'Steps that a dead critic or a collapse must last.', resumable=True),
  _first('health.min_kl', 0.5, rules.WEIGHT,
         'KL in nats per example below which the posterior has collapsed.',
         resumable=True),
  Field('health.min_usage', 0.1, between(0, 1), resumable=True,
        help='Share of codes in use below which the codebook has collapsed.'),
  Field('evaluation.lpips_weights', '', rules.FILES, resumable=True,
        help='Files of VGG16 or AlexNet, of their LPIPS heads and of DISTS, '
        'separated by commas, for LPIPS and DISTS; empty: not computed.'),
  Field('evaluation.features_weights', '', rules.LOCAL_PATH, resumable=True,
        help="File of VGG16 or of FID's Inception for the Frechet distance and "
        'KID; empty: not computed.'),
  Field('evaluation.tile_size', 0, rules.COUNT_OR_ZERO, resumable=True,
        help='Side of the overlapping tiles in which evaluations encode and '
        'decode; 0: whole examples.'),
  Field('evaluation.own_judge', False, rules.ANY, resumable=True,
        help='Whether a network that is trained on half of the held-out '
        'examples gives a distance and a Frechet distance on the others.'),
)
# fmt: on
_PATH_RULES = (rules.PATH, rules.DATA_PATH, rules.LOCAL_PATH, rules.FILES)


def create_config() -> ml_collections.ConfigDict:
  """Builds the unlocked configuration of all defaults."""
  tree = {}
  for field in FIELDS:
    *sections, name = field.name.split('.')
    fields = tree
    for section in sections:
      fields = fields.setdefault(section, {})
    value = field.default
    if field.rule.also:  # Else ConfigDict refuses the other types.
      value = ml_collections.FieldReference(value, field_type=object)
    fields[name] = value
  return ml_collections.ConfigDict(tree)


def default_flag(name: str) -> str:
  """Returns 'field=value' with the default of a field."""
  default = next(field.default for field in FIELDS if field.name == name)
  is_float = isinstance(default, float)
  return f'{name}={f"{default:g}" if is_float else rules.as_argument(default)}'


def path_fields() -> tuple[str, ...]:
  """Returns the fields that hold paths."""
  return tuple(f.name for f in FIELDS if f.rule in _PATH_RULES)


def resumable_fields(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the fields that a resumed run may change."""
  # With a schedule, the length of the run must stay.
  scheduled = config.optimizer.schedule != 'constant'
  fixed = ('num_train_steps',) if scheduled else ()
  return tuple(f.name for f in FIELDS if f.resumable and f.name not in fixed)
