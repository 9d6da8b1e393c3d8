"""Hyper-parameters and recipes. A recipe, `--config` and `--set` override the values of `config`.

These values are the `tensorlayer` recipe: the networks and losses of TensorLayer's SRGAN.
"""

from easydict import EasyDict as edict

config = edict()

config.TRAIN = edict()
config.TRAIN.hr_img_path = "sample"  # a folder of images, or 'sample': photos from installed packages
config.TRAIN.max_bad_images = 0.01  # fraction of the images that may be unreadable; they are skipped
config.TRAIN.hr_patch_size = 384  # side of the HR patches in px, a multiple of the scale
config.TRAIN.augment = True  # random flips and quarter turns
config.TRAIN.exposures = 0.0  # fraction of patches so dark or bright that parts clip; 0.2 prevents tints
config.TRAIN.degradation = "bicubic"  # how LR is made: 'bicubic', or 'photo': blur, resizing, noise, JPEG
config.TRAIN.seed = 0  # seed of the initial weights, the data's order, the crops and the degradations
config.TRAIN.batch_size = 16
config.TRAIN.steps_per_epoch = 0  # 0: one pass over the images
config.TRAIN.beta1 = 0.9  # Adam
config.TRAIN.lr_init = 1e-4  # learning rate
config.TRAIN.lr_schedule = "step"  # 'step': lr_decay; 'cosine': to zero in each phase that trains G
config.TRAIN.warmup_steps = 0  # steps of linear warm-up at the start of each phase that trains G
config.TRAIN.n_epoch_init = 100  # epochs of MSE pretraining
config.TRAIN.n_epoch_d = 0  # epochs in which only D trains, before adversarial training
config.TRAIN.n_epoch = 2000  # epochs of adversarial training
config.TRAIN.lr_decay = 0.1  # factor on the learning rate every decay_every epochs of adversarial training
config.TRAIN.decay_every = 0  # epochs; 0: n_epoch // 2
config.TRAIN.ema_decay = 0.0  # decay of the average of G's variables that is saved and evaluated; 0: none
config.TRAIN.init = "normal"  # random initial weights: 'normal': N(0, 0.02 ** 2); 'fan_in': N(0, 1 / fan_in)
config.TRAIN.init_weights = ""  # generator to start from: npz, or shipped: 'srresnet', 'srgan', ...
config.TRAIN.init_weights_d = ""  # discriminator to start from: npz, or shipped: 'srgan', 'photo'
config.TRAIN.save_every = 10  # epochs between samples and checkpoints
config.TRAIN.save_minutes = 10.0  # minutes between saves of the training state, also within an epoch
config.TRAIN.keep_weights = 0  # also keep G's weights of saved epochs that are multiples of this; 0: none

config.VALID = edict()
config.VALID.hr_img_path = "sample"  # an image, a folder, or 'sample': a photo from an installed package
config.VALID.lr_img_path = ""  # the LR image or folder for hr_img_path; empty: LR is made from HR
config.VALID.imid = 0  # number of the image in a folder, from 0, sorted by name

config.MODEL = edict()
config.MODEL.generator = edict()
config.MODEL.generator.scale = 4  # 2, 3, 4 or 8
config.MODEL.generator.num_blocks = 16
config.MODEL.generator.num_filters = 64
config.MODEL.generator.first_kernel = 3
config.MODEL.generator.last_kernel = 1
config.MODEL.generator.activation = "relu"  # 'relu' or 'prelu'
config.MODEL.generator.output_activation = "tanh"  # 'tanh' or 'linear'
config.MODEL.discriminator = edict()
config.MODEL.discriminator.convs = (  # (kernel, stride, filters)
    (4, 2, 64),
    (4, 2, 128),
    (4, 2, 256),
    (4, 2, 512),
    (4, 2, 1024),
    (4, 2, 2048),
    (1, 1, 1024),
    (1, 1, 512),
)
config.MODEL.discriminator.residual = (128, 128)  # filters of the last residual block; (): none
config.MODEL.discriminator.dense = ()  # units of hidden dense layers
config.MODEL.discriminator.patch_gan = False  # a logit for each position of the last convolution

config.LOSS = edict()
config.LOSS.mse = 1.0  # factor of the pixel loss in the adversarial phase
config.LOSS.vgg = 2e-6  # factor of the VGG19 feature loss
config.LOSS.means = 0.0  # factor of the local-means loss; 20 prevents colour shifts and a checkerboard
config.LOSS.excess = 0.0  # factor of the loss of excess detail; 0.2 prevents dots and outlines along edges
config.LOSS.adversarial = 1e-3  # factor of -log D(G(lr))

config.VGG = edict()
config.VGG.weights = "auto"  # a file, or 'auto': data/vgg19*, else Keras's cache, else its server
config.VGG.on_missing = "stop"  # 'stop', or 'random': train against random features
config.VGG.layer = "pool4"  # conv1_1 ... conv5_4 (after ReLU), pool1 ... pool5
config.VGG.before_relu = False  # compare features before ReLU, including the inactive ones
config.VGG.every = 1  # compare the features of every n-th patch; more than 1 is faster
config.VGG.input_size = 224  # side in px to which images are resized first; 0: not resized

config.RUNTIME = edict()
config.RUNTIME.precision = "auto"  # 'auto': bfloat16 where the hardware has it; 'float32', 'bfloat16'
config.RUNTIME.devices = 0  # GPUs that train together; 0: all. Without a GPU: virtual CPU devices, for tests
config.RUNTIME.intra_op_threads = 0  # threads inside one operation; 0: one per core
config.RUNTIME.xla = False  # compile the graph on a GPU: takes 1.5 minutes, then steps are faster
config.RUNTIME.deterministic = False  # bit-for-bit reproducible on a GPU, as on a CPU, but slower
config.RUNTIME.memory_mb = 0  # MB for upscaling; 0: a quarter of the available memory, at most 1280

PAPER_CONVS = (  # Ledig et al. 2017, fig. 4; the first layer works at full resolution
    (3, 1, 64),
    (3, 2, 64),
    (3, 1, 128),
    (3, 2, 128),
    (3, 1, 256),
    (3, 2, 256),
    (3, 1, 512),
    (3, 2, 512),
)

RECIPES = {
    "tensorlayer": {},
    # Ledig et al. 2017, sections 2 and 3.2. An epoch is 1,000 steps, regardless of the number of images
    "paper": {
        "TRAIN.hr_patch_size": 96,
        "TRAIN.steps_per_epoch": 1000,
        "TRAIN.n_epoch_init": 1000,
        "TRAIN.n_epoch": 200,
        "TRAIN.lr_decay": 0.1,
        "MODEL.generator.first_kernel": 9,
        "MODEL.generator.last_kernel": 9,
        "MODEL.generator.activation": "prelu",
        "MODEL.generator.output_activation": "linear",
        "MODEL.discriminator.convs": PAPER_CONVS,
        "MODEL.discriminator.residual": (),
        "MODEL.discriminator.dense": (1024,),
        "LOSS.mse": 0.0,
        "LOSS.vgg": 0.00615,  # features are divided by 12.75: 1 / 12.75 squared
        "VGG.layer": "conv5_4",
        "VGG.input_size": 0,
    },
    # Hours on two CPU cores: trains an SRGAN from the shipped SRResNet. The learning rate is constant, so
    # training can stop after any epoch
    "cpu": {
        "TRAIN.init": "fan_in",
        "TRAIN.init_weights": "srresnet",
        "TRAIN.hr_patch_size": 96,
        "TRAIN.batch_size": 8,
        "TRAIN.exposures": 0.2,
        "TRAIN.steps_per_epoch": 100,
        "TRAIN.n_epoch_init": 0,
        "TRAIN.n_epoch_d": 3,
        "TRAIN.n_epoch": 600,
        "TRAIN.lr_decay": 1.0,  # constant: with a decreasing rate the discriminator becomes too strong
        "TRAIN.save_every": 5,
        "TRAIN.warmup_steps": 50,
        "TRAIN.ema_decay": 0.9998,  # G and D oscillate, so an average is better than any snapshot
        "MODEL.discriminator.convs": PAPER_CONVS,
        "MODEL.discriminator.residual": (),
        "MODEL.discriminator.patch_gan": True,
        "LOSS.mse": 0.05,
        "LOSS.vgg": 1e-7,
        "LOSS.means": 8.0,
        "LOSS.excess": 0.2,
        "LOSS.adversarial": 3e-3,
        "VGG.layer": "conv3_4",
        "VGG.before_relu": True,
        "VGG.every": 2,
        "VGG.input_size": 0,
    },
    # For images with JPEG artefacts, blur and noise: MSE from the shipped SRResNet, then adversarial training
    "photo": {
        "TRAIN.degradation": "photo",
        "TRAIN.init": "fan_in",
        "TRAIN.init_weights": "srresnet",
        "TRAIN.hr_patch_size": 128,  # a JPEG block of LR covers 32 px of HR
        "TRAIN.batch_size": 8,
        "TRAIN.exposures": 0.15,
        "TRAIN.steps_per_epoch": 100,
        "TRAIN.n_epoch_init": 60,
        "TRAIN.n_epoch_d": 3,
        "TRAIN.n_epoch": 600,
        "TRAIN.lr_decay": 1.0,
        "TRAIN.save_every": 5,
        "TRAIN.warmup_steps": 50,
        "TRAIN.ema_decay": 0.999,
        "MODEL.discriminator.convs": PAPER_CONVS,
        "MODEL.discriminator.residual": (),
        "MODEL.discriminator.patch_gan": True,
        "LOSS.mse": 0.15,
        "LOSS.vgg": 2.5e-7,
        "LOSS.means": 10.0,
        "LOSS.excess": 0.3,
        "LOSS.adversarial": 1e-2,  # about three times recipe cpu's: degraded LR determines less of the detail
        "VGG.layer": "conv3_4",
        "VGG.before_relu": True,
        "VGG.every": 2,
        "VGG.input_size": 0,
    },
    # Minutes on two CPU cores: starts from the shipped SRResNet; a small discriminator, few steps
    "demo": {
        "TRAIN.init_weights": "srresnet",
        "TRAIN.hr_patch_size": 96,
        "TRAIN.exposures": 0.2,
        "TRAIN.batch_size": 8,
        "TRAIN.lr_init": 3e-5,
        "TRAIN.lr_schedule": "cosine",
        "TRAIN.steps_per_epoch": 25,
        "TRAIN.n_epoch_init": 3,
        "TRAIN.n_epoch": 3,
        "TRAIN.save_every": 3,
        "TRAIN.ema_decay": 0.98,  # batch norm's averages over a few small batches are noisy
        "MODEL.discriminator.convs": ((4, 2, 16), (4, 2, 32), (4, 2, 64), (4, 2, 128)),
        "MODEL.discriminator.residual": (32, 32),
        "TRAIN.init": "fan_in",
        "LOSS.vgg": 2e-7,  # with the note's 2e-6, conv2_2 causes a checkerboard
        "LOSS.means": 20.0,
        "VGG.layer": "conv2_2",
        "VGG.input_size": 0,
        "VGG.on_missing": "random",
    },
}
