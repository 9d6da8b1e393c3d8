"""Hyper-parameters: the one file to edit. Recipes and `--set` change values of this same tree.

The values here are the `tensorlayer` recipe: the network and losses of the TensorLayer SRGAN.
"""

from easydict import EasyDict as edict

config = edict()

config.TRAIN = edict()
config.TRAIN.hr_img_path = "sample"  # a folder of images, or 'sample': photos of installed packages
config.TRAIN.max_bad_images = 0.01  # fraction of the images that may be unreadable; they are left out
config.TRAIN.hr_patch_size = 384  # side of the HR patches in px, a multiple of the scale
config.TRAIN.augment = True  # random flips and quarter turns
config.TRAIN.exposures = 0.0  # fraction of patches so dark or bright that parts clip; 0.2 prevents tints
config.TRAIN.degradation = "bicubic"  # how LR is made: 'bicubic', or 'photo': blur, resizing, noise, JPEG
config.TRAIN.seed = 0  # of the initial weights, the order of the data and degradations
config.TRAIN.batch_size = 16
config.TRAIN.steps_per_epoch = 0  # 0: one pass over the images
config.TRAIN.beta1 = 0.9  # Adam
config.TRAIN.lr_init = 1e-4  # learning rate
config.TRAIN.lr_schedule = "step"  # 'step': the decay below; 'cosine': to zero over each phase of G
config.TRAIN.warmup_steps = 0  # steps of linear warm-up at the start of each phase of G
config.TRAIN.n_epoch_init = 100  # epochs of MSE pretraining
config.TRAIN.n_epoch_d = 0  # epochs in which D learns alone, before adversarial training
config.TRAIN.n_epoch = 2000  # epochs of adversarial training
config.TRAIN.lr_decay = 0.1  # factor on the learning rate in the adversarial phase ...
config.TRAIN.decay_every = 0  # ... every so many epochs; 0: every n_epoch // 2
config.TRAIN.ema_decay = 0.0  # moving average of the generator for use, batch norm's too; 0: none
config.TRAIN.init = "normal"  # weights to start from: 'normal': N(0, 0.02 ** 2); 'fan_in': N(0, 1 / fan_in)
config.TRAIN.init_weights = ""  # generator to start from: npz, or shipped: 'srresnet', 'srgan', ...
config.TRAIN.init_weights_d = ""  # discriminator to start from: npz, or 'srgan', 'photo'
config.TRAIN.save_every = 10  # epochs between samples and checkpoints
config.TRAIN.save_minutes = 10.0  # minutes between saves of the training state, epochs or not
config.TRAIN.keep_weights = 0  # numbered weights stay of saved epochs that are multiples of it; 0: none

config.VALID = edict()
config.VALID.hr_img_path = "sample"  # an image, a folder, or 'sample': a photo of an installed package
config.VALID.lr_img_path = ""  # an image or folder of LR to go with it; empty: LR is made from HR
config.VALID.imid = 0  # which image of the folders, in the order of their names

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
config.LOSS.means = 0.0  # factor of the errors of local means; 20 prevents colour shifts and a checkerboard
config.LOSS.excess = 0.0  # factor of detail beyond twice HR's; 0.2 prevents dots and outlines along edges
config.LOSS.adversarial = 1e-3  # factor of -log D(G(lr))

config.VGG = edict()
config.VGG.weights = "auto"  # 'auto': data/vgg19*, else Keras's cache, else its server; or a file
config.VGG.on_missing = "stop"  # 'stop', or 'random': train against random features
config.VGG.layer = "pool4"  # conv1_1 ... conv5_4 (after ReLU), pool1 ... pool5
config.VGG.before_relu = False  # compare features before ReLU: inactive ones count too
config.VGG.every = 1  # compare the features of every patch, or of every second, third ...: faster
config.VGG.input_size = 224  # side in px that images are resized to first; 0: not resized

config.RUNTIME = edict()
config.RUNTIME.precision = "auto"  # 'auto': bfloat16 where the hardware has it; 'float32', 'bfloat16'
config.RUNTIME.devices = 0  # GPUs that train together; 0: all. Without a GPU: parts of the CPU, to try it
config.RUNTIME.intra_op_threads = 0  # threads inside one operation; 0: one per core
config.RUNTIME.xla = False  # compile the graph, on a GPU: a minute and a half, then faster steps
config.RUNTIME.deterministic = False  # the same bits on a GPU too, slower; on a CPU they are anyway
config.RUNTIME.memory_mb = 0  # MB for upscaling; 0: a quarter of the machine's memory, at most 1280

PAPER_CONVS = (  # Ledig et al. 2017, fig. 4; its first layer sees single pixels
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
    # Ledig et al. 2017, sections 2 and 3.2: an epoch is 1,000 steps here, whatever the data
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
    # hours on two CPU cores: from the program's own SRResNet to an SRGAN; at a constant rate, so that it may
    # be stopped at any epoch
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
        "TRAIN.lr_decay": 1.0,  # constant: with a falling rate the discriminator wins
        "TRAIN.save_every": 5,
        "TRAIN.warmup_steps": 50,
        "TRAIN.ema_decay": 0.9998,  # G and D chase each other: an average beats any snapshot
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
    # images as people have them: JPEG, blur, noise. MSE from the program's own SRResNet, then adversarial
    "photo": {
        "TRAIN.degradation": "photo",
        "TRAIN.init": "fan_in",
        "TRAIN.init_weights": "srresnet",
        "TRAIN.hr_patch_size": 128,  # JPEG's blocks are 32 px of HR
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
        "LOSS.adversarial": 1e-2,  # three times that of recipe cpu: LR tells less of the detail
        "VGG.layer": "conv3_4",
        "VGG.before_relu": True,
        "VGG.every": 2,
        "VGG.input_size": 0,
    },
    # minutes on two CPU cores: the shipped SRResNet, a small discriminator, few steps
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
        "LOSS.vgg": 2e-7,  # at the note's 2e-6 conv2_2 draws a checkerboard
        "LOSS.means": 20.0,
        "VGG.layer": "conv2_2",
        "VGG.input_size": 0,
        "VGG.on_missing": "random",
    },
}
