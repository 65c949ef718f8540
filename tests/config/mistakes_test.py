"""Command lines with a mistake, and what the message must mention.

Each goes through the entry point: `told` asserts exit status 2, one line, no
compilation and no workdir.
"""

import re
import shlex

import pytest

# (flags beside --workdir and --config=configs/default.py, what the message must
# mention).
MISTAKES = (
  # The program's own flags.
  ('--workdir=', '--mode=train --workdir'),
  ('--workdir', 'Missing --workdir'),
  ('--mode=evaluate --workdir=', '--mode=evaluate --workdir'),
  ('--mode=study --workdir=', '--mode=study --workdir'),
  ('--mode=trian', '--mode=trian --mode=train'),
  ('--mode=style', '--mode=style docs/examples/style_transfer.py'),
  ('--mode=style --config.content=a', 'docs/examples/style_transfer.py'),
  ('--wrkdir=b', '--wrkdir --workdir'),
  ('--lr=1', '--lr --help'),
  ('b', 'b --help'),
  ('--config=configs/celba.py', 'configs/celba.py configs/celeba.py'),
  ('--config=', 'does not exist'),
  ('--config=configs/celeba.py:msee', "'msee' geometric kl_f8 'mse'"),
  ('--config=configs/celeba.py:geometric,kl_f9', "'kl_f9' 'kl_f8'"),
  ('--config=configs/celeba.py:vqf8', "'vqf8' 'vq_f8'"),
  ('--config=configs/celeba.py:xyz', "'xyz' geometric,kl_f8"),
  ('--config=configs/celeba.py:mse,geometric', 'mse geometric :mse'),
  ('--mode=evaluate --workdir=nowhere', 'nowhere/config.json'),
  ('--workdirs=a,b', '--workdirs=a,b --mode=compare'),
  ('--mode=study --workdirs=a,b', '--workdirs=a,b --mode=compare'),
  ('--mode=compare --workdirs=', '--workdirs= two'),
  ('--mode=compare --workdirs=a,a', '--workdirs=a,a two'),
  ('--mode=compare --workdirs=a,b', 'a/config.json'),
  ('--mode=compare --workdirs=a,b --config.seed=1', '--config --workdirs'),
  ('--mode=compare --workdirs=a,b third', 'third'),
  ('--study.seeds=0', '--study.seeds=0 --mode=study'),
  ('--mode=evaluate --study.objectives=mse', '--mode=study'),
  ('--mode=study --study.seed=0', '--study.seed --study.seeds=0,1,2'),
  ('--input=a', '--input=a --mode=encode'),
  ('--mode=export --split=eval', '--split=eval --mode=encode'),
  ('--mode=encode --with_critic=false', '--with_critic=False --mode=export'),
  ('--mode=encode', '--mode=encode --input=/data/my_photos --split=eval'),
  ('--mode=decode', '--mode=decode --input=runs/celeba/latents'),
  ('--mode=encode --split=test', "--split=test 'train' 'eval'"),
  ('--split=test', "--split=test 'train' 'eval' --mode=encode --split=eval"),
  ('--num_samples=0 --mode train', '--mode=sample --num_samples=1000'),
  ('--split=test --mode', "--split=test 'train' 'eval'"),
  ('--mode=encode --split=eval --input=a', '--input=a --split=eval'),
  ('--mode=encode --input=a --output=a', '--output --input'),
  ('--mode=sample --num_samples=0', '--num_samples=0 from 1 to 10000000'),
  ('--mode=sample --num_samples=1e3', '--num_samples=1e3 whole'),
  ('--mode=export --with_critic=maybe', '--with_critic=maybe true false'),
  ('--mode=export --output=s3://a/b', '--output=s3://a/b gs://'),
  *(
    (f'--config.data.{field}=gs://{place}', f'data.{field} gs://bucket/folder')
    for field in ('path', 'data_dir')
    for place in ('', 'a//b', '/b', 'a/./b', 'a/../b')
  ),
  # Processes.
  ('--num_processes=2 --process_id=0', '--coordinator --num_processes=2'),
  ('--coordinator=a:1', '--num_processes --process_id'),
  ('--coordinator=a --num_processes=2 --process_id=0', '--coordinator=a port'),
  ('--coordinator=a:b --num_processes=2 --process_id=0', '--coordinator=a:b'),
  ('--coordinator=a:99999 --num_processes=2 --process_id=0', '1 to 65535'),
  ('--coordinator=a:1 --num_processes=0 --process_id=0', '--num_processes=0 1'),
  ('--coordinator=a:1 --num_processes=two', '--num_processes=two whole'),
  ('--coordinator=a:1 --num_processes=2 --process_id=2', 'process_id=2 0 to 1'),
  ('--coordinator=a:1 --num_processes=2 --process_id=-1', '--process_id=-1 0'),
  # A study.
  ('--mode=study --study.objectives=geometic', "'geometic' 'geometric'"),
  ('--mode=study --study.objectives=mse,zzz', "mse,zzz 'zzz' 'geometric'"),
  ('--mode=study --study.objectives=mse,mse', 'mse,mse once objectives=mse'),
  ('--mode=study --study.seeds=0,one,2', '0,one,2 --study.seeds=0,2'),
  ('--mode=study --study.seeds=1,01', '--study.seeds=1,01 once'),
  ('--mode=study --study.seeds=-1', '--study.seeds=-1 from 0 to 4294967295'),
  ('--mode=study --study.seeds=4294967296', '--study.seeds=0,1,2'),
  ('--mode=study --study.seeds=', '--study.seeds= whole'),
  ('--mode=study --study.sweep=3', '--study.sweep=3 loss.kl_weight=1e-3'),
  ('--mode=study --study.sweep=seed=1,2', "'seed' --study.seeds=1,2"),
  ('--mode=study --study.sweep=batch_size=8,8', 'once batch_size=8'),
  ('--mode=study --study.sweep=objective=mse', "'objective' study.objectives"),
  ('--mode=study --study.sweep=model.norm=2x', "model.norm 'none' number"),
  ('--mode=study --study.sweep=batchsize=8', 'batchsize --config.batch_size'),
  ('--mode=study --config=configs/celeba.py:mse', '--study.objectives=mse'),
  ('--mode=study --config=a/config.json', 'one run a study configs/celeba.py'),
  ('--mode=study --config.objective=mse', '--study.objectives'),
  ('--mode=study --config.seed 3', '--config.seed --study.seeds'),
  ('--mode=study --config.batchsize=4', '--config.batch_size'),
  ('--mode=study --config.batch_size=-4', "'geometric' batch_size=-4 from 1"),
  ('--config.data.random_flip false', 'false'),
  ('--config.seed -5', 'seed=-5 from 0'),
)
# {word: what it stands for in the table below}.
WORDS = {
  'ARRAYS': 'data.name=array_folder data.path=/data/bands',
  'LDM': 'RESIDUAL model.layout=ldm model.latent_shape=map '
  'model.middle_attention=true',
  'LPIPS': 'critic.network=lpips critic.weights=a.pth,b.pth '
  'loss.adversarial_weight=0 loss.normalize=none loss.reduction=spatial',
  'RESIDUAL': 'model.network=residual model.channel_multipliers=1,2,4,8,8',
  'SMALL': 'data.image_size=8 model.depth=3 model.channel_multipliers=1,2,4',
  'SOUNDS': 'data.name=drawn_sounds data.shape=(128,)',
  'VGG': 'critic.network=vgg16 critic.weights=a.pth loss.adversarial_weight=0',
  'VIEWS': """SOUNDS critic.head=patch critic.views="('stft',)\"""",
}
# The same of flags of fields, without their "--config.": a line each, with the
# indented lines after it.
FIELDS = r"""
# Names and types of fields.
batchsize=4 -> --config.batchsize=4 --config.batch_size
model.latentdim=4 -> --config.model.latent_dim
model=4 -> --config.model=4 --config.model.
qqq=4 -> vaegan_jax/config/schema.py
seed.x=4 -> --config.seed.x=4 --config.seed
batch_size=abc -> --config.batch_size=abc whole
-config.batch_size=abc -> --config.batch_size=abc whole
batch_size=1.5 -> --config.batch_size=1.5 whole
batch_size -> Missing --config.batch_size
--noconfig.batch_size -> --noconfig.batch_size
optimizer.b1=x -> optimizer.b1=x finite
optimizer.b1=nan -> optimizer.b1=nan finite
loss.rate=64 loss.kl_weight=1e-3 -> loss.rate=64 loss.kl_weight one
--config=configs/quickstart.py loss.kl_weight=1e-3 loss.rate=120 ->
  loss.rate=120 loss.kl_weight one loss.rate=0
--config=configs/default.py:fsq_f8 loss.rate=64 ->
  loss.rate=64.0 'gaussian' 'fsq' codes loss.rate=0
model.latent=none loss.rate=64 -> 'none' measured
loss.rate=0.5 -> loss.rate=0.5 health.min_kl=0.5 loss.rate=8
loss.rate=1e5 -> loss.rate=100000.0 16 128 2,048
loss.equivariance_weight=1 ->
  equivariance_weight=1.0 'gaussian' 'flat' model.latent_shape=map
--config=configs/default.py:fsq_f8 loss.equivariance_weight=1 ->
  'fsq' equivariance_weight=0
model.latent_shape=map data.image_size=16 loss.equivariance_weight=1 ->
  halves (1,1) equivariance_weight=0
loss.kl_weight=-1 -> loss.kl_weight=-1.0 at least 0
data.random_flip=maybe -> data.random_flip=maybe true false
--noconfig.data.random_flip=1 -> --noconfig.data.random_flip=1
"loss.layers=(1, 2" -> loss.layers=(1, tuple
"loss.layers={[]: 1}" -> loss.layers tuple
# Choices.
objective=hinge -> objective='hinge' 'geometric' 'wasserstein'
model.norm=layer -> model.norm='layer' 'none' 'group'
update_order=alternate -> 'alternate' 'alternating'
health.on_failure=rolback -> 'rolback' 'rollback'
optimizer.schedule=linear -> 'linear' 'constant' 'cosine'
critic.num_steps=0 -> critic.num_steps=0 from 1 to 100
# The data.
data.name=image_folder -> data.path='' --config.data.path=/data
data.path=a -> data.path --config.data.name=image_folder
data.shape=(64,64) -> data.shape=(64, data.image_size
data.feature=x -> data.feature='x' TFDS data.name='drawn_faces'
data.channels=13 -> data.channels=13 'array_folder' from 1 to 4
ARRAYS data.center_crop=8 -> data.center_crop=8
ARRAYS data.axes=NYX -> data.axes='NYX' array_file
ARRAYS data.axes=ZYX -> data.axes='ZYX' 2 axes axes=CYX
data.axes=CYX -> data.axes='CYX' arrays data.axes=
data.nodata=0 -> data.nodata='0' arrays data.nodata=
ARRAYS data.max_nodata=0.1 data.folder_rules=2 ->
  data.max_nodata=0.1 needs data.folder_rules=3
data.crop=random -> data.crop='random' data.crop=center
ARRAYS data.shape=(8,8) data.crop=random data.name=scenes ->
  data.crop='random' 'scenes', which has tiles
ARRAYS data.crop=random data.random_crop_margin=8 ->
  data.random_crop_margin=8 data.random_crop_margin=0
data.shown_bands=3 -> data.shown_bands=(3,) data.channels=3
SOUNDS data.flip_axes=1 -> data.flip_axes=(1,) data.shape
evaluation.tile_size=32 ->
  evaluation.tile_size=32 model.latent_shape='flat' evaluation.tile_size=0
# Sizes, with their arithmetic.
data.image_size=60 ->
  data.image_size=60 2**model.depth=2**4=16; 60 / 16 leaves 12: 48 or 64
data.name=drawn_volumes data.shape=(64,60,64) ->
  data.shape=60 divisible 2**model.depth=2**4=16;
model.patch_size=8 ->
  data.image_size=64 model.patch_size=8 times 2**model.depth=2**4, 128; 64 / 128
  leaves 64: 128
SOUNDS model.patch_size=3 model.strides=2,4,2,4 ->
  data.shape=128 model.patch_size=3 times product model.strides="(2, 4, 2, 4)",
  192; 192
model.spectral_mask=64 ->
  model.spectral_mask=64 must be 0 2 axes model.spectral_mask=0
SOUNDS model.spectral_mask=80 ->
  model.spectral_mask=80 multiple of 32 model.spectral_mask=96
SOUNDS RESIDUAL model.spectral_mask=64 ->
  model.spectral_mask=64 must be 0 model.network='residual' plain
  model.spectral_mask=0
critic.num_scales=4 critic.head=patch ->
  image_size=64 2**(critic.depth + critic.num_scales - 1)=2**7=128; 128
critic.views="('stft',)" -> critic.views=('stft',) wave 2 axes critic.views
SOUNDS critic.head=patch critic.patch_size=2 critic.views="('period',)" ->
  critic.patch_size=2 'wave' critic.patch_size=1
SOUNDS critic.views="('stft',)" ->
  critic.views=('stft',) critic.head='dense' critic.head=patch
VIEWS critic.stft_windows=64 ->
  critic.stft_windows=(64,) data.shape=(128,) 8 frames of 32 critic.depth=4
  critic.stft_windows="(32,)"
VIEWS data.shape=2048, ->
  has 1024 data.shape=(2048,) critic.stft_windows="(512, 256, 128)"
VIEWS data.shape=256, ->
  has 1024 data.shape=(256,) critic.stft_windows="(64, 32)"
VIEWS data.shape=16000, ->
  has 1024 data.shape=(16000,) 62.5 frames data.shape="(16384,)"
VIEWS critic.stft_windows=32 critic.stft_bands=0.1, ->
  critic.stft_bands=(0.1,) window 32 multiples of 16
loss.spectrum_weight=1 ->
  loss.spectrum_weight=1.0 one axis data.image_size=64 =0
objective=mse SOUNDS loss.spectrum_weight=1 loss.variance=optimal
  loss.reduction=sum ->
  loss.spectrum_weight=1.0 loss.variance=half
critic.num_scales=2 -> critic.num_scales=2 critic.head='dense'
model.depth=3 -> model.channel_multipliers model.depth=3 (1,2,4)
critic.network=residual ->
  critic.channel_multipliers critic.depth=4 4 + 1 = 5 (1,2,4,8,8)
RESIDUAL model.channel_multipliers=1,2,4,8 -> model.depth=4 4 + 1 = 5
critic.norm=instance data.image_size=16 ->
  critic.norm='instance' data.image_size=16 --config.critic.norm=group
# The autoencoder and its latent.
model.num_res_blocks=2 -> model.network='residual'
RESIDUAL model.norm=batch -> model.norm='batch' GroupNorm
LDM model.latent=fsq -> latent='fsq' 'gaussian' 'ldm'
LDM model.latent=vq -> model.code_dim=8 'ldm' code_dim=128
SOUNDS model.layout=tiny -> model.layout='tiny' two axes
model.layout=oobleck -> model.layout='oobleck' one axis image_size=64 layout=own
SOUNDS model.layout=oobleck model.network=residual model.latent_shape=map
  model.width=256 model.channel_multipliers=2,1,2,2,2 ->
  model.channel_multipliers 'oobleck' (1,
SOUNDS model.layout=oobleck model.network=residual model.latent_shape=map
  model.width=256 model.channel_multipliers=1,1,2,2,2 model.num_res_blocks=2 ->
  num_res_blocks=2 layout='oobleck' three --config.model.num_res_blocks=1
model.latent=lfq model.code_dim=2 optimizer.accumulate_steps=2 ->
  accumulate_steps=2 "lfq" accumulate_steps=1
optimizer.accumulate_steps=7 -> batch_size=64 by 7; accumulate_steps=7 use 63
LDM model.latent_shape=flat -> model.latent_shape=map
LDM model.network=plain model.channel_multipliers=1,2,4,8 ->
  --config.model.network=residual
LDM model.attention_sides=16 -> attention_sides="()"
LDM model.num_groups=7 -> model.num_groups=7 32 channels =0
--noconfig.model.quant_convs ->
  model.quant_convs=False model.layout='ldm' model.layout=ldm
model.train=none objective=mse ->
  model.train='none' trains none model.train=decoder
critic.warmup_steps=9 objective=mse ->
  critic.warmup_steps=9 critic that is trained =0
model.latent=vq model.latent_dim=12 ->
  model.latent_dim=12 model.code_dim=8 12 / 8 leaves 4 latent_dim=8
model.latent=fsq model.latent_dim=4 ->
  model.latent_dim=4 model.fsq_levels leaves 1 latent_dim=3
model.latent=fsq model.fsq_levels=1024,1024,1024 ->
  model.fsq_levels 1,073,741,824 16,777,216
model.latent=lfq model.code_dim=32 -> model.code_dim=32 at most 24 2**32
model.latent=none critic.prior_fakes=true ->
  critic.prior_fakes=True model.latent='none'
# The critic and the losses.
critic.weights=vgg.pth -> critic.weights='vgg.pth' 'vgg16'
critic.weight_clip=0.01 critic.spectral_norm=true ->
  critic.weight_clip=0.01 critic.spectral_norm=True
critic.gradient_penalty_weight=10 critic.norm=batch ->
  critic.gradient_penalty_weight=10.0 critic.norm='batch'
critic.norm=batch ->
  critic.r1_weight=1.0 critic.norm='batch' --config.critic.r1_weight=0
critic.num_steps=5 critic.long_round_steps=12 ->
  critic.long_round_steps=12 critic.num_steps=5 use 10 or 15
loss.adaptive_weight=true loss.adversarial_weight=0 ->
  loss.adaptive_weight=True loss.adversarial_weight=0.0 off
loss.layers=block_0,block_1 -> 'block_0,block_1' block_3
loss.layers="('block_7',)" -> 'block_7' block_0
loss.layer_weights=1,2 -> loss.layer_weights=(1, 4 block_3
loss.variance=optimal -> loss.variance 'geometric' objective=mse
loss.distance_weight=0 -> loss.image_weight loss.pixel_weight=1
loss.distance_weight=0 loss.image_weight=0 ->
  loss.distance_weight=0.0 loss.pixel_weight=0.0 loss.pixel_weight=1
loss.image_halvings=7 ->
  loss.image_halvings=7 data.image_size=64 loss.image_halvings=6
optimizer.warmup_steps=20001 -> num_train_steps=20000
loss.adversarial_ramp_steps=1000 num_train_steps=999 ->
  loss.adversarial_ramp_steps=1000 num_train_steps=999
# Pretrained critics.
VGG critic.weights= -> critic.weights='' 'vgg16'
VGG objective=mse -> critic.network='vgg16' 'mse'
VGG loss.adversarial_weight=0.5 -> adversarial_weight=0.5 0
VGG data.channels=2 -> data.channels=2 1 or 3
VGG SMALL -> data.image_size=8 at least 16
VGG loss.layer_weights=1 -> 13 layers
LPIPS critic.weights=vgg.pth -> two files lpips_vgg.pth
LPIPS critic.weights=a,b,c -> two files lpips_vgg.pth
LPIPS critic.weights="a, " -> two files lpips_vgg.pth
LPIPS loss.normalize=relative -> 'relative' 'none'
LPIPS loss.reduction=mean -> loss.reduction=spatial
LPIPS data.channels=4 -> data.channels=4 1 or 3
LPIPS loss.adversarial_weight=0.5 -> adversarial_weight=0.5
LPIPS loss.layers="('conv1_1',)" -> conv1_1 conv1_2
# Sounds and volumes have no height and width.
SOUNDS LPIPS -> critic.network='lpips' data.shape=(128,) two axes
SOUNDS LDM -> model.layout='ldm' data.shape=(128,) two axes
SOUNDS evaluation.lpips_weights=a.pth,b.pth -> evaluation.lpips_weights two axes
SOUNDS evaluation.features_weights=a.pth -> evaluation.features_weights two axes
"""
_REMEDY = re.compile(
  r'for example|did you mean|use \d|see --help|such as|name a workdir'
)


def arguments(flags):
  """Yields the arguments of flags in the table of fields."""
  for word in shlex.split(flags):
    if word in WORDS:
      yield from arguments(WORDS[word])
    else:
      yield word if word.startswith('-') else f'--config.{word}'


def field_mistakes():
  """Yields the rows of the table of fields as those of `MISTAKES`."""
  for row in re.sub(r'#.*\n|\n +', ' ', FIELDS).strip().split('\n'):
    flags, tokens = row.split(' -> ')
    yield shlex.join(arguments(flags)), tokens


@pytest.mark.parametrize(('flags', 'tokens'), (*MISTAKES, *field_mistakes()))
def test_a_mistake_is_one_sentence_with_its_field_and_remedy(
  flags, tokens, told
):
  args = shlex.split(flags)
  if not flags.startswith('--mode='):  # A mode may read the saved one.
    args.insert(0, '--config=configs/default.py')
  message = told(*args, alone=True)
  plain = message.replace(', ', ',')
  missing = [
    token
    for token in tokens.split()
    if token not in message and token not in plain
  ]
  assert not missing, message
  assert _REMEDY.search(message), message
