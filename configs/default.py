"""Every configuration field, once, with its default and what it means.

A dataset's own file (`configs/celeba.py`, ...) starts from `get_config()` and
changes only what differs. The text after a colon, as in
`--config=configs/celeba.py:mse`, is the objective.
"""

import ml_collections


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the defaults, with the named objective (default: geometric)."""
  config = ml_collections.ConfigDict()

  config.seed = 0  # Weights, order of the data, flips and latent noise.
  # The workdir of a run from whose weights this one starts; '': from the seed.
  config.init_from = ''
  # What the critic is trained on: 'geometric' (the hinge loss), 'wasserstein',
  # 'wasserstein_gp', 'vanilla', 'non_saturating' or 'least_squares'; 'mse': no
  # critic, the distance is measured between the pixels.
  config.objective = objective or 'geometric'
  # 'alternating': the distance sees the critic just updated, as in the post.
  # 'simultaneous': both steps share one critic pass; cheaper.
  config.update_order = 'alternating'
  config.ema_decay = 0.999  # Of the autoencoder evaluated; 0: no averaging.
  config.batch_size = 64  # Images an update, over all devices.
  config.num_train_steps = 20_000
  config.log_every_steps = 100
  config.checkpoint_every_steps = 1_000
  config.eval_every_steps = 2_000
  config.figure_every_steps = 1_000
  config.num_eval_images = 512  # Held out, in training; 0: the whole split.
  config.num_checkpoints = 3  # How many of the newest are kept.
  config.max_skipped_steps = 20  # Non-finite updates in a row that end a run.
  config.profile_steps = ()  # First and last of those traced; (): none.

  data = config.data = ml_collections.ConfigDict()
  # 'image_folder', 'array_folder', 'drawn_faces', 'drawn_bands',
  # 'drawn_sounds', 'drawn_volumes' or a TFDS name.
  data.name = 'drawn_faces'
  # The folder, for 'image_folder', 'array_folder' and 'celeb_a'; or gs://...
  data.path = ''
  # How a folder is read and split. 1: as the first versions did, whose runs
  # keep it; there, an image that is added moves what is held out.
  data.folder_rules = 2
  data.allow_growth = False  # A run whose folder has more images now goes on.
  # Of a TFDS dataset, the feature that holds the examples; '': 'image', or the
  # only one of numbers.
  data.feature = ''
  # Where prepared data lives, or gs://...; '': ~/tensorflow_datasets.
  data.data_dir = ''
  # Where copies of what is in a bucket live; '': data_dir, if that is on a
  # disk, or ~/tensorflow_datasets.
  data.copy_dir = ''
  # Pixels on a side, after the crop; or a pair, (height, width).
  data.image_size = ml_collections.FieldReference(64, field_type=object)
  # Sides of examples that are no photographs, cut from the middle: (samples,),
  # (height, width) or (depth, height, width); (): image_size.
  data.shape = ()
  data.sample_rate = 16_000  # Samples a second, of sounds.
  # 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; of arrays any number.
  data.channels = 3
  # What becomes [-1, 1]: 'dtype', all that whole numbers of the files' type can
  # be, 'percentiles', 0.1 to 99.9 of the training split, or a pair (low, high).
  data.value_range = ml_collections.FieldReference('dtype', field_type=object)
  # Bands that figures show as red, green and blue, or the one that is grey; ():
  # all of images, and the first of arrays.
  data.shown_bands = ()
  data.center_crop = 0  # Side of the square crop; 0: the largest that fits.
  data.train_split = 'train'
  data.eval_split = 'test'
  data.random_flip = True  # Mirror half of the training images; of no arrays.
  # So many places more are read on every axis, out of which training cuts a
  # part at random; the others see the middle.
  data.random_crop_margin = 0
  # Axes along each of which half of the examples are mirrored, of images 0 the
  # height, 1 the width; (): the width, if random_flip says so.
  data.flip_axes = ()
  data.cache_images = True  # Decode once to a uint8 memory map on disk.

  model = config.model = ml_collections.ConfigDict()
  # 'plain', a stack of convolutions; 'residual', blocks with a way around them,
  # and attention.
  model.network = 'plain'
  model.width = 32  # Channels of the first block.
  model.depth = 4  # How often the side is halved, and doubled again.
  # Times `width`: one a halving; of 'residual' one more, the first, of the
  # image's own side.
  model.channel_multipliers = (1, 2, 4, 8)
  # Of 'residual': blocks at each side; sides of the maps, of images of
  # data.image_size, at which attention follows them; whether two more blocks
  # stand at the smallest, with attention between them.
  model.num_res_blocks = 1
  model.attention_sides = ()
  model.middle_attention = False
  model.layout = 'own'  # Or 'ldm', latent-diffusion's, layer by layer.
  # 'gaussian'; codes: 'vq' (a learnt codebook), 'fsq' (rounded), 'lfq' (signs);
  # or 'none', a plain autoencoder.
  model.latent = 'gaussian'
  model.latent_shape = 'flat'  # One an image; or 'map', one a place.
  model.latent_dim = 128  # Entries of an image's latent, or of each place's.
  model.code_dim = 8  # Entries of a code: 'vq'; bits: 'lfq'.
  model.codebook_size = 512  # Codes of 'vq'.
  model.unit_codes = False  # Of 'vq': codes of length 1.
  model.fsq_levels = (8, 6, 5)  # Of 'fsq', one an entry of a code: 240 codes.
  # 'none', 'group', 'instance' or 'batch'; 'residual' has GroupNorm.
  model.norm = 'none'
  model.dtype = 'float32'  # Of its convolutions alone; or 'bfloat16'.
  model.remat = False  # Blocks computed twice, and not kept: less memory.

  critic = config.critic = ml_collections.ConfigDict()
  # 'plain', 'residual': trained beside the autoencoder, of the fields below.
  # 'vgg16', 'vgg19', 'lpips': frozen, from `weights`; those are not read.
  critic.network = 'plain'
  # Of VGG: torchvision's .pth, or .safetensors. LPIPS: VGG16's, a comma, heads.
  critic.weights = ''
  critic.width = 32
  critic.depth = 4  # Its blocks, each of which halves the side.
  critic.channel_multipliers = (1, 2, 4, 8)  # As the model's.
  # The others divide contrast away: loss.image_weight brings it back.
  critic.norm = 'none'
  # Every kernel, reshaped to a matrix, has largest singular value 1. A
  # convolution's own is larger: 1.3 to 2.0 where it was measured.
  critic.spectral_norm = False
  critic.dtype = 'float32'  # As the autoencoder's; the penalties are float32.
  critic.head = 'dense'  # One logit an image; or 'patch', a map of them.
  # Critics, each of the image at half the sides of the one before; of 'patch'.
  critic.num_scales = 1
  # How it is trained; a weight of 0 is off.
  critic.num_steps = 1  # Critic steps an update, each on its own images.
  critic.long_round_steps = 0  # Critic steps before the first updates; 0: off.
  critic.weight_clip = 0.0  # Largest absolute weight.
  critic.gradient_penalty_weight = 0.0  # Between photograph and reconstruction.
  critic.r1_weight = 1.0  # Gradient penalty at photographs.
  critic.r1_every_steps = 16
  critic.lecam_weight = 0.0  # Logits near the other side's moving average.
  critic.lecam_decay = 0.99
  critic.prior_fakes = False  # Images decoded from the prior are fakes too.

  loss = config.loss = ml_collections.ConfigDict()
  loss.layers = ()  # Critic layers in the distance, by name; (): all.
  loss.layer_weights = ()  # One a layer; (): all 1.
  # What the critic's features are divided by: 'local', each place's own size
  # and some of the batch's, 'batch', the batch's, 'relative', each image's,
  # 'unit', each place's own, or 'none' (the post).
  loss.normalize = 'local'
  # Over one layer's features: 'mean', 'sum' (the post), or 'spatial', the sum
  # over the channels and the mean over the places.
  loss.reduction = 'mean'
  loss.distance_weight = 1.0  # 0: the critic's verdict and the pixels alone.
  loss.image_weight = 1.0  # The image as a layer of the distance, too,
  loss.image_halvings = 3  # and so often again, each time at half its sides.
  # Of the pixels, for 'mse': 'optimal', the errors' own, or 'half'.
  loss.variance = 'half'
  loss.pixel_weight = 0.0  # Squared pixel error beside the critic's features.
  loss.adversarial_weight = 0.2  # Of the critic's verdict.
  loss.adversarial_ramp_steps = 0  # Steps from 0 to that weight, linearly.
  loss.adversarial_to_encoder = True  # False: it moves the decoder alone.
  loss.adaptive_weight = False  # Times the ratio of the gradients' lengths.
  loss.kl_weight = 1e-2  # Against a distance of about 1.
  loss.commitment_weight = 0.25  # Of 'vq' and 'lfq': tokens near their codes.
  loss.entropy_weight = 0.1  # Of 'lfq': sure tokens, evenly used codes.
  if config.objective == 'mse':
    # The likelihood of the pixels, summed over an image, and so much of the KL
    # that about as many nats are left as with a critic; 1: the likelihood's.
    loss.reduction = 'sum'
    loss.variance = 'optimal'
    loss.kl_weight = 4.0

  optimizer = config.optimizer = ml_collections.ConfigDict()  # For both.
  optimizer.name = 'adam'  # Or 'rmsprop', which does not read b1 and b2.
  optimizer.autoencoder_learning_rate = 1e-3
  optimizer.critic_learning_rate = 1e-3
  optimizer.b1 = 0.5
  optimizer.b2 = 0.999
  optimizer.warmup_steps = 0  # Steps in which the rates rise from 0.
  optimizer.schedule = 'constant'  # Or 'cosine', to 0 at num_train_steps.
  optimizer.max_grad_norm = 0.0  # Longer gradients are cut to this; 0: none.

  health = config.health = ml_collections.ConfigDict()
  health.on_failure = 'warn'  # 'stop', or 'rollback' to a healthy checkpoint.
  health.patience_steps = 500  # What a dead critic or a collapse must last.
  health.min_kl = 0.5  # Nats an image; below, the latent has collapsed.
  health.min_usage = 0.1  # Share of the codes; below, the codebook has.

  evaluation = config.evaluation = ml_collections.ConfigDict()
  # Judges that the run was not trained with; '': they are not asked.
  evaluation.lpips_weights = ''  # VGG16's file, a comma, and LPIPS's heads.
  evaluation.features_weights = ''  # Frechet's: VGG16, or FID's Inception.

  # These bound the critic's slope in a way of their own, in place of R1.
  if config.objective == 'wasserstein':  # The recipe of arXiv 1701.07875.
    critic.r1_weight = 0.0
    critic.num_steps = 5
    critic.long_round_steps = 100
    critic.weight_clip = 0.01
    optimizer.name = 'rmsprop'
    optimizer.autoencoder_learning_rate = 5e-5
    optimizer.critic_learning_rate = 5e-5
  elif config.objective == 'wasserstein_gp':
    critic.r1_weight = 0.0
    critic.gradient_penalty_weight = 10.0  # As in arXiv 1704.00028.

  return config.lock()
