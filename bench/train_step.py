"""Time of a training step beside a PyTorch twin: same networks, weights, losses, batch and threads.

python bench/train_step.py                    MSE and adversarial step, ours and the twin in turns
python bench/train_step.py --input FOLDER     training from pictures on disk against one fixed batch
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time

import measure
import numpy as np
from measure import Contestant

import training.dataset
from common.settings import make_config

PRETRAIN, ADVERSARIAL = "pretrain", "adversarial"
PHASES = {PRETRAIN: "MSE step", ADVERSARIAL: "adversarial step"}
TURN_STEPS = {PRETRAIN: 4, ADVERSARIAL: 2}  # steps of one turn
# D's update shows in the first step's g_gan_loss, G's in the second's and third's losses; a second
# adversarial step would amplify rounding: Adam moves by the sign of gradients that are nearly zero
CHECKED_STEPS = (ADVERSARIAL, PRETRAIN, PRETRAIN)
TOLERANCE = 1e-3  # relative difference of losses in float32
INPUT_TURN_STEPS = 60  # at most: a pass over the pictures if it is shorter


def settings_of(precision: str, threads: int) -> list[str]:
    """The full networks of the default recipe, VGG19 features at the patches' own size."""
    return [
        "TRAIN.hr_patch_size=96",
        "VGG.input_size=0",
        f"RUNTIME.precision={precision}",
        f"RUNTIME.intra_op_threads={threads}",
    ]


def fixed_batch(config) -> tuple[np.ndarray, np.ndarray]:
    """LR and HR, uint8 [N, p, p, 3]: crops of the embedded photographs."""
    patches = training.dataset.Dataset("sample", patch_size=config.TRAIN.hr_patch_size, batch_size=1, seed=0)
    return patches.fixed_patches(config.TRAIN.batch_size)


# --- The contestants, each in its own process -----------------------------------------------------


class Ours:
    """The program's training step: one run of its graph."""

    def __init__(self, settings: list[str]):
        measure.start_tensorflow()
        import tensorflow as tf

        from tf1 import runtime

        self.config = make_config(settings=settings)
        runtime.configure(self.config.RUNTIME)
        self.dtype = runtime.compute_dtype(self.config.RUNTIME.precision)
        self.lr, self.hr = fixed_batch(self.config)
        with tf.Graph().as_default():
            tf.compat.v1.set_random_seed(self.config.TRAIN.seed)
            self.build()
            options = runtime.session_config(self.config.RUNTIME)
            self.session = tf.compat.v1.Session(config=options)
            self.session.run(tf.compat.v1.global_variables_initializer())

    def build(self) -> None:
        from training import graph

        g = self.graph = graph.build(self.config, self.dtype)
        self.fetches = {
            PRETRAIN: [[g.g_init_losses, g.g_optim_init]],
            ADVERSARIAL: [[g.g_losses, g.g_optim]],
        }

    def run(self, phase: str, lr: np.ndarray, hr: np.ndarray) -> dict[str, float]:
        feed, losses = {self.graph.t_image: lr, self.graph.t_target_image: hr}, {}
        for fetches in self.fetches[phase]:
            losses.update(self.session.run(fetches, feed)[0])
        return losses

    def step(self, phase: str) -> dict[str, float]:
        """One step on the fixed batch: its losses."""
        return {name: float(loss) for name, loss in self.run(phase, self.lr, self.hr).items()}

    def seconds(self, phase: str, steps: int) -> float:
        """Seconds per step on the fixed batch."""
        return measure.seconds_per_call(lambda: self.run(phase, self.lr, self.hr), steps)

    def seconds_with_input(self, folder: str, data_pass: int) -> tuple[float, int]:
        """Seconds per MSE step on batches from disk, from the first request on; and the steps."""
        train = self.config.TRAIN
        training.dataset.CACHE_BYTES = 0  # as for a folder too large to be kept decoded
        dataset = training.dataset.Dataset(
            folder, patch_size=train.hr_patch_size, batch_size=train.batch_size, seed=train.seed
        )
        steps = min(dataset.steps_per_epoch, INPUT_TURN_STEPS)
        started = time.perf_counter()
        with contextlib.closing(dataset.batches(data_pass)) as batches:
            for _ in range(steps):
                self.run(PRETRAIN, *next(batches))
        return (time.perf_counter() - started) / steps, steps

    def params(self) -> list:
        """The variables of both networks."""
        return self.graph.net_g.all_params + self.graph.net_d.all_params

    def weights(self) -> dict[str, np.ndarray]:
        """Every variable of the three networks."""
        from tf1 import checkpoints

        return checkpoints.fetch(self.session, self.params() + self.graph.net_vgg.all_params)

    def describe(self) -> tuple[str, str, bool]:
        """Device, TensorFlow's version, whether bfloat16 is worth while."""
        import tensorflow as tf

        from tf1 import runtime

        return runtime.describe_device(), tf.__version__, runtime.has_bfloat16()


class TwoRuns(Ours):
    """The adversarial step as two runs of the same networks: D's, then G's, each with its own G pass."""

    def build(self) -> None:
        import tensorflow as tf

        from model import SRGAN_d, SRGAN_g
        from tf1.layers import tl
        from training import graph
        from vgg19 import Vgg19_simple_api

        config, reuse = self.config, tf.compat.v1.AUTO_REUSE
        patch = config.TRAIN.hr_patch_size
        t_target_image = tf.compat.v1.placeholder(tf.uint8, [None, patch, patch, 3])
        hr = graph.to_range(t_target_image)
        t_image = tf.compat.v1.placeholder(tf.uint8, [None, patch // 4, patch // 4, 3])
        net_g = SRGAN_g(graph.to_range(t_image), True, **config.MODEL.generator, dtype=self.dtype)
        discriminator = {**config.MODEL.discriminator, "reuse": reuse, "dtype": self.dtype}
        net_d, real_logits = SRGAN_d(hr, **discriminator)
        net_d_fake, fake_logits = SRGAN_d(net_g.outputs, **discriminator)
        entropy, error = tl.cost.sigmoid_cross_entropy, tl.cost.mean_squared_error
        ones = tf.ones_like(real_logits)
        d_loss = entropy(real_logits, ones) + entropy(fake_logits, tf.zeros_like(fake_logits))
        hr_features, sr_features = (
            tf.cast(
                Vgg19_simple_api((images + 1) / 2, reuse, layer=config.VGG.layer, dtype=self.dtype)[
                    1
                ].outputs,
                tf.float32,
            )
            for images in (hr, net_g.outputs)
        )
        mse_loss = error(net_g.outputs, hr, is_mean=True)
        vgg_loss = config.LOSS.vgg * error(sr_features, hr_features, is_mean=True)
        g_gan_loss = config.LOSS.adversarial * entropy(fake_logits, ones)
        g_loss = config.LOSS.mse * mse_loss + vgg_loss + g_gan_loss

        def run_of(loss, logged, scope, networks):
            adam = tf.compat.v1.train.AdamOptimizer(config.TRAIN.lr_init, beta1=config.TRAIN.beta1)
            update = adam.minimize(loss, var_list=tf.compat.v1.trainable_variables(scope))
            return [logged, [update, [net.moving_average_updates(tf.constant(True)) for net in networks]]]

        d_run = run_of(d_loss, {"d_loss": d_loss}, "SRGAN_d", [net_d, net_d_fake])
        g_losses = {"g_gan_loss": g_gan_loss, "mse_loss": mse_loss, "vgg_loss": vgg_loss, "g_loss": g_loss}
        g_run = run_of(g_loss, g_losses, "SRGAN_g", [net_g])
        self.graph = argparse.Namespace(t_image=t_image, t_target_image=t_target_image)
        self.fetches = {ADVERSARIAL: [d_run, g_run]}


class Twin:
    """The same step in PyTorch: channels_last, autocast for bfloat16, fused Adam, one G forward pass."""

    def __init__(self, settings: list[str], arrays: dict[str, np.ndarray]):
        import torch
        import twin

        config = make_config(settings=settings)
        self.loss, self.precision = config.LOSS, config.RUNTIME.precision
        torch.set_num_threads(config.RUNTIME.intra_op_threads)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as TensorFlow's default is
        self.torch = torch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.g = self._place(twin.Generator(arrays, config.MODEL.generator))
        self.d = self._place(twin.Discriminator(arrays, config.MODEL.discriminator))
        self.vgg = self._place(twin.Vgg19(arrays, config.VGG.layer))
        self.lr, self.hr = map(torch.from_numpy, fixed_batch(config))

        def adam(network):
            rate, betas = config.TRAIN.lr_init, (config.TRAIN.beta1, 0.999)
            return torch.optim.Adam(network.parameters(), rate, betas, fused=True)

        self.g_optim_init, self.g_optim, self.d_optim = adam(self.g), adam(self.g), adam(self.d)
        self.steps = {PRETRAIN: self._mse_step, ADVERSARIAL: self._adversarial_step}

    def _place(self, network):
        return network.to(self.device, memory_format=self.torch.channels_last).train()

    def _to_range(self, images):
        """uint8 [N, h, w, 3] -> float32 [N, 3, h, w] in [-1, 1], a view: channels_last."""
        return images.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _autocast(self):
        enabled = self.precision == "bfloat16"
        return self.torch.autocast(self.device.type, self.torch.bfloat16, enabled)

    def _mse_step(self) -> dict:
        hr = self._to_range(self.hr)
        with self._autocast():
            sr = self.g(self._to_range(self.lr))
        mse_loss = self.torch.nn.functional.mse_loss(sr, hr)
        self._update(self.g_optim_init, mse_loss)
        return {"mse_loss": mse_loss}

    def _adversarial_step(self) -> dict:
        F = self.torch.nn.functional
        hr = self._to_range(self.hr)
        with self._autocast():
            sr = self.g(self._to_range(self.lr))
            real, fake = self.d(hr), self.d(sr.detach())
        d_loss1 = F.binary_cross_entropy_with_logits(real, self.torch.ones_like(real))
        d_loss2 = F.binary_cross_entropy_with_logits(fake, self.torch.zeros_like(fake))
        self._update(self.d_optim, d_loss1 + d_loss2)

        self.d.requires_grad_(False)  # no filter gradients that G's step does not need
        self.d.keep_averages(True)
        with self._autocast():
            updated, sr_features = self.d(sr), self.vgg(sr)
            with self.torch.no_grad():
                hr_features = self.vgg(hr)
        self.d.keep_averages(False)
        bce = F.binary_cross_entropy_with_logits(updated, self.torch.ones_like(updated))
        losses = {
            "g_gan_loss": self.loss.adversarial * bce,
            "mse_loss": F.mse_loss(sr, hr),
            "vgg_loss": self.loss.vgg * F.mse_loss(sr_features, hr_features),
        }
        self._update(
            self.g_optim, losses["g_gan_loss"] + self.loss.mse * losses["mse_loss"] + losses["vgg_loss"]
        )
        self.d.requires_grad_(True)
        return {"d_loss1": d_loss1, "d_loss2": d_loss2, **losses}

    def _update(self, optimizer, loss) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:  # TensorFlow adds epsilon before it corrects v's bias
            group["updates"] = group.get("updates", 0) + 1
            group["eps"] = 1e-8 / (1 - group["betas"][1] ** group["updates"]) ** 0.5
        optimizer.step()

    def step(self, phase: str) -> dict[str, float]:
        return {name: loss.item() for name, loss in self.steps[phase]().items()}  # waits for a GPU

    def seconds(self, phase: str, steps: int) -> float:
        return measure.seconds_per_call(lambda: self.step(phase), steps)

    def gflop(self, phase: str) -> float:
        """Convolutions and matrix products of one step, a multiplication and an addition being 2."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.step(phase)
        return counter.get_total_flops() / 1e9

    def version(self) -> str:
        return self.torch.__version__


# --- Ours beside the twin -------------------------------------------------------------------------


def compare(args: argparse.Namespace) -> dict:
    results = {}
    with contextlib.ExitStack() as stack:
        two_runs = stack.enter_context(Contestant(TwoRuns, settings_of("float32", args.threads)))
        device, version, has_bfloat16 = two_runs("describe")
        print(f"{device}, {args.threads} threads each, TensorFlow {version}", flush=True)
        check(args, two_runs)
        for precision in args.precision or ["float32", "bfloat16"][: 1 + has_bfloat16]:
            results[precision] = compare_in(precision, args, two_runs)
    return {"device": device, "tensorflow": version, "batch": "16, 24 -> 96", "precision": results}


def start_pair(precision: str, threads: int, stack: contextlib.ExitStack) -> tuple[Contestant, Contestant]:
    """Ours, and the twin with our weights."""
    settings = settings_of(precision, threads)
    ours = stack.enter_context(Contestant(Ours, settings))
    return ours, stack.enter_context(Contestant(Twin, settings, ours("weights")))


def check(args: argparse.Namespace, two_runs: Contestant) -> None:
    """Stops unless the same weights give the same losses in float32, updates included."""
    worst = 0.0
    with contextlib.ExitStack() as stack:
        ours, twin = start_pair("float32", args.threads, stack)
        print(f"PyTorch {twin('version')}", flush=True)
        for number, phase in enumerate(CHECKED_STEPS):
            ours_losses = ours("step", phase)
            others = {"twin": twin("step", phase)}
            if phase == ADVERSARIAL:
                others["two runs"] = two_runs("step", phase)
            for name, losses in others.items():
                for loss, value in losses.items():
                    difference = abs(value / ours_losses[loss] - 1)
                    worst = max(worst, difference)
                    if not difference <= TOLERANCE:
                        sys.exit(
                            f"error: {loss} of {PHASES[phase]} {number} is {ours_losses[loss]:.6g} here and "
                            f"{value:.6g} in {name}: these are not the same networks"
                        )
    print(f"same weights, same losses: they differ by at most {worst:.1e} over {len(CHECKED_STEPS)} steps")


def compare_in(precision: str, args: argparse.Namespace, two_runs: Contestant) -> dict:
    """Prints and returns one precision's times, in seconds per step."""
    results = {}
    with contextlib.ExitStack() as stack:
        ours, twin = start_pair(precision, args.threads, stack)
        for phase, title in PHASES.items():
            gflop, steps = twin("gflop", phase), args.steps or TURN_STEPS[phase]
            contestants = {"ours": ours, "PyTorch": twin}
            if phase == ADVERSARIAL:
                contestants["two float32 runs"] = two_runs
            turns = {
                name: lambda one=one, phase=phase, steps=steps: one("seconds", phase, steps)
                for name, one in contestants.items()
            }
            measure.take_turns(turns, rounds=1)  # warms up
            times = measure.take_turns(turns, args.rounds)
            print(f"{precision} {title}, {gflop:,.0f} GFLOP, {args.rounds} rounds of {steps} steps")
            ratios = {}
            for name, seconds in times.items():
                median = statistics.median(seconds)
                line = f"  {name:16} {median:7.3f} s  {gflop / median:8,.0f} GFLOP/s"
                if name != "ours":
                    ratios[name] = measure.ratio(times["ours"], seconds)
                    line += f"  ours / {name} {measure.describe_ratio(ratios[name])}"
                print(line, flush=True)
            results[phase] = {"gflop": gflop, "seconds": times, "ratio": ratios}
    return results


# --- Input --------------------------------------------------------------------------------------


def compare_input(args: argparse.Namespace) -> dict:
    """MSE steps on batches from disk and on one fixed batch, in turns, in one process.

    A turn on batches from disk begins with nothing prepared and ends its threads, so that no work for
    it is done in the other's turn.
    """
    precision = (args.precision or ["auto"])[0]
    times = {"pictures on disk": [], "one fixed batch": []}
    with Contestant(Ours, settings_of(precision, args.threads)) as ours:
        ours("seconds", PRETRAIN, TURN_STEPS[PRETRAIN])  # warms up
        for data_pass in range(args.rounds):
            seconds, steps = ours("seconds_with_input", args.input, data_pass)
            times["pictures on disk"].append(seconds)
            times["one fixed batch"].append(ours("seconds", PRETRAIN, steps))
    print(f"{precision} MSE step, {args.rounds} rounds of {steps} steps, no picture kept decoded")
    for name, seconds in times.items():
        print(f"  {name:16} {statistics.median(seconds):7.3f} s")
    ratio = measure.ratio(*times.values())
    print(f"  disk / fixed     {measure.describe_ratio(ratio)}")
    return {"steps": steps, "seconds": times, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=0, help="per turn; default: 4 MSE, 2 adversarial")
    parser.add_argument("--threads", type=int, default=measure.cores(), help="default: the cores")
    parser.add_argument("--input", metavar="FOLDER")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    results = {"machine": measure.describe_machine(), "threads": args.threads}
    print(results["machine"])
    if args.input:
        results["input"] = compare_input(args)
    else:
        results["steps"] = compare(args)
    measure.write_json(args.json, results)


if __name__ == "__main__":
    main()
