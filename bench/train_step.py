"""Time of a training step compared with PyTorch: same networks, weights, losses, batch and threads.

One turn of each contestant after the other. "Two runs" is the note's adversarial step in float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import measure
import numpy as np
from measure import Contestant

import training.dataset
from common.settings import make_config

PRETRAIN, ADVERSARIAL = "pretrain", "adversarial"
PHASES = {PRETRAIN: "MSE step", ADVERSARIAL: "adversarial step"}
TURN_STEPS = {PRETRAIN: 4, ADVERSARIAL: 2}
# D's update shows in the first step's g_gan_loss, G's in the losses of the second and third. A second
# adversarial step would amplify rounding: Adam moves by the sign of gradients that are nearly zero.
CHECKED_STEPS = (ADVERSARIAL, PRETRAIN, PRETRAIN)
TOLERANCE = 1e-3  # relative difference of losses in float32


def settings_of(precision: str, threads: int) -> list[str]:
    """The networks of the default recipe with 96 px patches, VGG19 features at their size."""
    return [
        *("TRAIN.hr_patch_size=96", "VGG.input_size=0"),
        *(f"RUNTIME.precision={precision}", f"RUNTIME.intra_op_threads={threads}"),
    ]


def fixed_batch(config) -> tuple[np.ndarray, np.ndarray]:
    """LR and HR, uint8 [N, p, p, 3]: crops of the sample photographs."""
    data = training.dataset.Dataset("sample", patch_size=config.TRAIN.hr_patch_size, batch_size=1, seed=0)
    return data.fixed_patches(config.TRAIN.batch_size)


class Ours:
    """The program's training step: one run of its graph."""

    def __init__(self, settings: list[str]):
        measure.start_tensorflow()
        import tensorflow as tf

        from tf1 import runtime
        from training import graph

        self.config = config = make_config(settings=settings)
        runtime.configure(config.RUNTIME)
        self.lr, self.hr = fixed_batch(config)
        with tf.Graph().as_default():
            tf.compat.v1.set_random_seed(config.TRAIN.seed)
            self.g = graph.build(config, runtime.compute_dtype(config.RUNTIME.precision))
            self.fetches = self.runs_of_step()
            self.session = tf.compat.v1.Session(config=runtime.session_config(config.RUNTIME))
            self.session.run(tf.compat.v1.global_variables_initializer())

    def runs_of_step(self) -> dict[str, list]:
        """{phase: [what each run of a step fetches]}."""
        g = self.g
        return {PRETRAIN: [[g.g_init_losses, g.g_optim_init]], ADVERSARIAL: [[g.g_losses, g.g_optim]]}

    def step(self, phase: str) -> dict[str, float]:
        """One step on the fixed batch: its losses."""
        losses = {}
        for fetches in self.fetches[phase]:
            losses |= self.session.run(fetches, {self.g.t_image: self.lr, self.g.t_target_image: self.hr})[0]
        return {name: float(loss) for name, loss in losses.items()}

    def seconds(self, phase: str, steps: int) -> float:
        return measure.seconds_per_call(lambda: self.step(phase), steps)

    def params(self) -> list:
        """The variables of G and D."""
        return self.g.net_g.all_params + self.g.net_d.all_params

    def weights(self) -> dict[str, np.ndarray]:
        """The variables of G, D and VGG19."""
        from tf1 import checkpoints

        return checkpoints.fetch(self.session, self.params() + self.g.net_vgg.all_params)

    def describe(self) -> tuple[str, bool]:
        """Device; whether bfloat16 is worth using."""
        from tf1 import runtime

        return runtime.describe_device(), runtime.has_bfloat16()


class TwoRuns(Ours):
    """The note's adversarial step: D's run, then G's run with a forward pass of its own."""

    def runs_of_step(self):
        import tensorflow as tf

        from model import SRGAN_d
        from tf1.layers import tl

        g, loss = self.g, self.config.LOSS
        _, logits = SRGAN_d(g.net_g.outputs, is_train=True, reuse=True, **g.d_args)
        g_gan_loss = loss.adversarial * tl.cost.sigmoid_cross_entropy(logits, tf.ones_like(logits))
        g_loss = loss.mse * g.mse_loss + g.vgg_loss + g_gan_loss
        g_optim, _ = g.minimise("g_optim_of_two_runs", g_loss, g.g_vars, g.net_g)
        g_losses = {
            "g_gan_loss": g_gan_loss,
            "mse_loss": g.mse_loss,
            "vgg_loss": g.vgg_loss,
            "g_loss": g_loss,
        }
        return {ADVERSARIAL: [[{"d_loss": g.d_loss}, g.d_optim], [g_losses, g_optim]]}


class PyTorch:
    """The same step in PyTorch: channels_last, autocast for bfloat16, fused Adam, one G forward pass."""

    def __init__(self, settings: list[str], arrays: dict[str, np.ndarray]):
        import torch
        import twin

        self.torch, self.F = torch, torch.nn.functional
        self.config = config = make_config(settings=settings)
        torch.set_num_threads(config.RUNTIME.intra_op_threads)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as TensorFlow's default is
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.g = twin.Generator("SRGAN_g", arrays, config.MODEL.generator)
        self.d = twin.Discriminator("SRGAN_d", arrays, config.MODEL.discriminator)
        self.vgg = twin.Vgg19("VGG19", arrays).requires_grad_(False)
        for network in (self.g, self.d, self.vgg):
            network.to(device, memory_format=torch.channels_last).train()
        self.lr, self.hr = (torch.from_numpy(images).to(device) for images in fixed_batch(config))
        bfloat16 = config.RUNTIME.precision == "bfloat16"
        self.autocast = lambda: torch.autocast(device.type, torch.bfloat16, bfloat16)

        def adam(network):
            rate, betas = config.TRAIN.lr_init, (config.TRAIN.beta1, 0.999)
            return torch.optim.Adam(network.parameters(), rate, betas, fused=True)

        self.g_optim_init, self.g_optim, self.d_optim = adam(self.g), adam(self.g), adam(self.d)

    def step(self, phase: str) -> dict[str, float]:
        losses = self._mse_step() if phase == PRETRAIN else self._adversarial_step()
        return {name: loss.item() for name, loss in losses.items()}  # waits for a GPU

    def _mse_step(self) -> dict:
        with self.autocast():
            sr = self.g(_to_range(self.lr))
        mse_loss = self.F.mse_loss(sr, _to_range(self.hr))
        self._update(self.g_optim_init, mse_loss)
        return {"mse_loss": mse_loss}

    def _adversarial_step(self) -> dict:
        def cross_entropy(logits, label):
            return self.F.binary_cross_entropy_with_logits(logits, self.torch.full_like(logits, label))

        hr, loss, layer = _to_range(self.hr), self.config.LOSS, self.config.VGG.layer
        with self.autocast():
            sr = self.g(_to_range(self.lr))
            real, fake = self.d(hr), self.d(sr.detach())
        d_loss = cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)
        self._update(self.d_optim, d_loss)

        self.d.requires_grad_(False)  # no filter gradients that G's step does not need
        momentum, self.d.momentum = self.d.momentum, 0.0  # this pass moves no averages
        with self.autocast():
            updated, sr_features = self.d(sr), self.vgg(sr, layer)
            with self.torch.no_grad():
                hr_features = self.vgg(hr, layer)
        self.d.momentum = momentum
        g_gan_loss = loss.adversarial * cross_entropy(updated, 1.0)
        mse_loss = self.F.mse_loss(sr, hr)
        vgg_loss = loss.vgg * self.F.mse_loss(sr_features, hr_features)
        self._update(self.g_optim, g_gan_loss + loss.mse * mse_loss + vgg_loss)
        self.d.requires_grad_(True)
        return {"d_loss": d_loss, "g_gan_loss": g_gan_loss, "mse_loss": mse_loss, "vgg_loss": vgg_loss}

    def _update(self, optimizer, loss) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:  # TensorFlow adds epsilon before it corrects v's bias
            group["updates"] = group.get("updates", 0) + 1
            group["eps"] = 1e-8 / (1 - group["betas"][1] ** group["updates"]) ** 0.5
        optimizer.step()

    def seconds(self, phase: str, steps: int) -> float:
        return measure.seconds_per_call(lambda: self.step(phase), steps)


def _to_range(images):
    """torch uint8 [N, h, w, 3] -> float32 [N, 3, h, w] in [-1, 1], a view: channels_last."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def compare(args: argparse.Namespace) -> None:
    with Contestant(TwoRuns, settings_of("float32", args.threads)) as two_runs:
        device, has_bfloat16 = two_runs("describe")
        print(f"{device}, {args.threads} threads each", flush=True)
        for precision in ("float32", "bfloat16"):
            settings = settings_of(precision, args.threads)
            is_timed = precision in (args.precision or ["float32", "bfloat16"][: 1 + has_bfloat16])
            if is_timed or precision == "float32":
                with (
                    Contestant(Ours, settings) as ours,
                    Contestant(PyTorch, settings, ours("weights")) as pytorch,
                ):
                    if precision == "float32":
                        require_same_losses(ours, pytorch)
                    if is_timed:
                        contestants = {"ours": ours, "PyTorch": pytorch, "two float32 runs": two_runs}
                        compare_in(precision, args, contestants)


def require_same_losses(ours: Contestant, pytorch: Contestant) -> None:
    """Stops unless the same weights give the same losses in float32, updates included."""
    worst = 0.0
    for number, phase in enumerate(CHECKED_STEPS):
        expected, losses = ours("step", phase), pytorch("step", phase)
        for name, value in losses.items():
            worst = max(worst, difference := abs(value / expected[name] - 1))
            if not difference <= TOLERANCE:
                sys.exit(
                    f"error: {name} of step {number}, {PHASES[phase]}, is {expected[name]:.6g} here and "
                    f"{value:.6g} in PyTorch: these are not the same networks"
                )
    print(f"same weights, same losses: they differ by at most {worst:.1e} over {len(CHECKED_STEPS)} steps")


def compare_in(precision: str, args: argparse.Namespace, contestants: dict[str, Contestant]) -> None:
    """Prints one precision's seconds per step."""
    for phase, title in PHASES.items():
        steps = args.steps or TURN_STEPS[phase]
        turns = {
            name: lambda one=one, phase=phase, steps=steps: one("seconds", phase, steps)
            for name, one in contestants.items()
            if phase == ADVERSARIAL or name != "two float32 runs"
        }
        measure.take_turns(turns, rounds=1)  # warms up
        times = measure.take_turns(turns, args.rounds)
        print(f"{precision} {title}, {args.rounds} rounds of {steps} steps")
        for name, seconds in times.items():
            ratio = measure.ratio(times["ours"], seconds)
            print(f"  {name:16} {statistics.median(seconds):7.3f} s  ours / it {ratio}", flush=True)


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=0, help="per turn; default: 4 MSE, 2 adversarial")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    print(measure.describe_machine())
    compare(args)


if __name__ == "__main__":
    main()
