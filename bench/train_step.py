"""Times a training step against PyTorch with the same networks, weights, losses, batch and threads.

python bench/train_step.py --precision float32 bfloat16
"""

import statistics
import sys

import measure
import numpy as np
from measure import Contestant

from common.settings import make_config
from tf1.start import start_tensorflow
from training.dataset import Dataset

PRETRAIN, ADVERSARIAL = "pretrain", "adversarial"
PHASES = {PRETRAIN: "MSE step", ADVERSARIAL: "adversarial step"}
# The first step's g_gan_loss depends on D's update, the losses of the second and third on G's. A second
# adversarial step would amplify rounding errors: Adam's steps depend on the sign of near-zero gradients.
CHECKED_STEPS = (ADVERSARIAL, PRETRAIN, PRETRAIN)
TOLERANCE = 1e-3  # relative difference of losses in float32


def settings_of(precision: str, threads: int) -> list[str]:
    """The default recipe with 96 px patches, which are not resized for VGG19."""
    return [
        *("TRAIN.hr_patch_size=96", "VGG.input_size=0"),
        *(f"RUNTIME.precision={precision}", f"RUNTIME.intra_op_threads={threads}"),
    ]


def fixed_batch(config) -> tuple[np.ndarray, np.ndarray]:
    """Returns LR [N, p / scale, p / scale, 3] and HR [N, p, p, 3], uint8, from the sample photographs."""
    patch_size, scale = config.TRAIN.hr_patch_size, config.MODEL.generator.scale
    data = Dataset("sample", patch_size=patch_size, scale=scale, batch_size=1, seed=0)
    return data.fixed_patches(config.TRAIN.batch_size)


class Ours:
    """The program's training step: one session run."""

    def __init__(self, settings: list[str]):
        start_tensorflow()
        import tensorflow as tf

        from tf1 import runtime
        from training import graph

        self.config = config = make_config(settings=settings)
        runtime.configure(config.RUNTIME)
        self.lr, self.hr = fixed_batch(config)
        with tf.Graph().as_default():
            tf.compat.v1.set_random_seed(config.TRAIN.seed)
            self.g = graph.build(config, runtime.compute_dtype(config.RUNTIME.precision))
            self.session = tf.compat.v1.Session(config=runtime.session_config(config.RUNTIME))
            self.session.run(tf.compat.v1.global_variables_initializer())

    def step(self, phase: str) -> dict[str, float]:
        """Runs one step on the fixed batch and returns its losses."""
        g = self.g
        fetches = {PRETRAIN: (g.g_init_losses, g.g_optim_init), ADVERSARIAL: (g.g_losses, g.g_optim)}[phase]
        losses, _ = self.session.run(fetches, {g.t_image: self.lr, g.t_target_image: self.hr})
        return {name: float(loss) for name, loss in losses.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Returns the variables of G, D and VGG19."""
        from tf1 import checkpoints

        nets = self.g.net_g, self.g.net_d, self.g.net_vgg
        return checkpoints.fetch(self.session, [param for net in nets for param in net.all_params])


class PyTorch:
    """The same step in PyTorch: channels_last, autocast for bfloat16, fused Adam, one G forward pass."""

    def __init__(self, settings: list[str], arrays: dict[str, np.ndarray]):
        import torch
        import twin

        self.torch, self.F, self.to_range = torch, torch.nn.functional, twin.to_range
        self.config = config = make_config(settings=settings)
        torch.set_num_threads(config.RUNTIME.intra_op_threads)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, which is TensorFlow's default
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.g = twin.Generator("SRGAN_g", arrays, config.MODEL.generator)
        self.d = twin.Discriminator("SRGAN_d", arrays, config.MODEL.discriminator)
        self.vgg = twin.Vgg19("VGG19", arrays).requires_grad_(False)
        for network in (self.g, self.d, self.vgg):
            network.to(device, memory_format=torch.channels_last)
        self.lr, self.hr = (torch.from_numpy(images).to(device) for images in fixed_batch(config))
        bfloat16 = config.RUNTIME.precision == "bfloat16"
        self.autocast = lambda: torch.autocast(device.type, torch.bfloat16, bfloat16)

        def adam(network):
            rate, betas = config.TRAIN.lr_init, (config.TRAIN.beta1, 0.999)
            return torch.optim.Adam(network.parameters(), rate, betas, fused=True)

        self.g_optim_init, self.g_optim, self.d_optim = adam(self.g), adam(self.g), adam(self.d)

    def step(self, phase: str) -> dict[str, float]:
        hr = self.to_range(self.hr)
        with self.autocast():
            sr = self.g(self.to_range(self.lr))
        mse_loss = self.F.mse_loss(sr, hr)
        if phase == PRETRAIN:
            self._update(self.g_optim_init, mse_loss)
            losses = {"mse_loss": mse_loss}
        else:
            losses = self._adversarial_step(sr, hr, mse_loss)
        return {name: loss.item() for name, loss in losses.items()}  # .item() waits for the GPU

    def _adversarial_step(self, sr, hr, mse_loss) -> dict:
        def cross_entropy(logits, label):
            return self.F.binary_cross_entropy_with_logits(logits, self.torch.full_like(logits, label))

        loss, layer = self.config.LOSS, self.config.VGG.layer
        with self.autocast():
            real, fake = self.d(hr), self.d(sr.detach())
        d_loss = cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)
        self._update(self.d_optim, d_loss)

        self.d.requires_grad_(False)  # G's step does not need gradients of D's weights
        momentum, self.d.momentum = self.d.momentum, 0.0  # do not update moving averages in this pass
        with self.autocast():
            updated, sr_features = self.d(sr), self.vgg(sr, layer)
            with self.torch.no_grad():
                hr_features = self.vgg(hr, layer)
        self.d.momentum = momentum
        g_gan_loss = loss.adversarial * cross_entropy(updated, 1.0)
        vgg_loss = loss.vgg * self.F.mse_loss(sr_features, hr_features)
        self._update(self.g_optim, g_gan_loss + loss.mse * mse_loss + vgg_loss)
        self.d.requires_grad_(True)
        return {"d_loss": d_loss, "g_gan_loss": g_gan_loss, "mse_loss": mse_loss, "vgg_loss": vgg_loss}

    def _update(self, optimizer, loss) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:  # TensorFlow adds epsilon before bias correction
            group["updates"] = group.get("updates", 0) + 1
            group["eps"] = 1e-8 / (1 - group["betas"][1] ** group["updates"]) ** 0.5
        optimizer.step()


def require_same_losses(ours: Contestant, pytorch: Contestant) -> None:
    """Exits unless both sides give the same float32 losses, including after updates."""
    worst = 0.0
    for phase in CHECKED_STEPS:
        expected, losses = ours("step", phase), pytorch("step", phase)
        worst = max(worst, *(abs(value / expected[name] - 1) for name, value in losses.items()))
        if not worst <= TOLERANCE:
            sys.exit(f"error: the networks differ: {PHASES[phase]}: {expected} here, {losses} in PyTorch")
    print(f"same weights, same losses: they differ by at most {worst:.1e} over {len(CHECKED_STEPS)} steps")


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=2, help="steps per turn; default: %(default)s")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    for precision in args.precision:
        settings = settings_of(precision, args.threads)
        with Contestant(Ours, settings) as ours, Contestant(PyTorch, settings, ours("weights")) as pytorch:
            print(
                f"{measure.describe_device()}; {ours(measure.describe_device)}, {args.threads} threads each"
            )
            if precision == "float32":
                require_same_losses(ours, pytorch)
            for phase, title in PHASES.items():
                contestants, call = {"ours": ours, "PyTorch": pytorch}, ("step", (phase,), args.steps)
                measure.take_turns(contestants, 1, *call)  # warms up
                times = measure.take_turns(contestants, args.rounds, *call)
                print(f"{precision} {title}, {args.rounds} rounds of {args.steps} steps")
                for name, seconds in times.items():
                    ratio = measure.ratio(times["ours"], seconds)
                    print(f"  {name:8}{statistics.median(seconds):7.3f} s  ours / it {ratio}", flush=True)


if __name__ == "__main__":
    main()
