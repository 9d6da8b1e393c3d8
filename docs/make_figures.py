"""The images of docs/walkthrough.md and docs/theory.md, from the pages' variables and a short training run.

python docs/make_figures.py            or: make walkthrough
python docs/make_figures.py --vgg FILE --log checkpoint/train_log.jsonl    of a run that exists

Two images need VGG19's weights, and are left as they are where none are found.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the program's modules
from tf1.start import start_tensorflow

start_tensorflow()
import tensorflow as tf

import vgg19
from images import bicubic
from images.pixels import enlarge, side_by_side
from model import SRGAN_d, SRGAN_g
from tf1.checkpoints import assign

v1 = tf.compat.v1
FOLDER = ROOT / "docs" / "walkthrough"
COLOURS = {
    "Conv2d": "#4878a8",
    "BatchNorm": "#e49444",
    "Add": "#6a9f58",
    "SubpixelConv2d": "#a87c9f",
    "Flatten": "#967662",
    "Dense": "#d1615d",
}
# Four blocks of 32 filters, 400 steps of each phase: two minutes on two cores
TRAINING = (
    "TRAIN.init_weights=",
    "MODEL.generator.num_blocks=4",
    "MODEL.generator.num_filters=32",
    "TRAIN.lr_init=5e-4",
    "TRAIN.lr_schedule=step",
    "TRAIN.lr_decay=1.0",
    "TRAIN.steps_per_epoch=10",
    "TRAIN.n_epoch_init=40",
    "TRAIN.n_epoch=40",
    "TRAIN.save_every=40",
)


def variables_of(page: str) -> dict:
    """Runs the snippets of a page, except those that show an error; returns what they defined."""
    names: dict = {}
    for example in doctest.DocTestParser().get_examples((ROOT / page).read_text(encoding="utf-8")):
        if not example.exc_msg:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(example.source, page, "single"), names)
    return names


def train(folder: Path, vgg: Path | None) -> Path:
    """Runs the program for a few minutes; returns its log."""
    command = [sys.executable, "main.py", "--mode=srgan", "--recipe", "demo"]
    command += ["--checkpoint-dir", str(folder), "--samples-dir", str(folder / "samples")]
    settings = TRAINING if vgg is None else (*TRAINING, f"VGG.weights={vgg}")
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "train_log.jsonl"


def save(figure: Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=100)
    with Image.open(FOLDER / name) as image:  # 256 colours are enough for a drawing
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def show(axes, image: np.ndarray, title: str, **how) -> None:
    axes.imshow(image, interpolation="nearest", **how)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


# Networks


def sources(net) -> dict[str, list[str]]:
    """{layer: the layers whose outputs it reads}, by walking the graph back from each output."""
    made_by = {tensor.name: name for name, tensor in net.tensors.items()}
    found: dict[str, list[str]] = {}
    for name, output in net.tensors.items():
        found[name], to_visit = [], list(output.op.inputs)
        while to_visit:
            tensor = to_visit.pop()
            if tensor.name in made_by:
                found[name].append(made_by[tensor.name])
            else:
                to_visit += tensor.op.inputs
    return found


def draw_network(axes, net, layers: list, *, labels: bool) -> None:
    """Layers as bars, as high as their outputs are (log scale), with an arc for each skip connection."""
    position = {layer.name: i for i, layer in enumerate(layers)}

    def height(name: str) -> float:
        shape = net.tensors[name].shape
        return np.log2(shape[1]) if shape.rank == 4 else 1.0

    for layer in layers:
        shape = net.tensors[layer.name].shape
        x, kind = position[layer.name], type(layer).__name__
        axes.bar(x, height(layer.name), width=0.8, color=COLOURS[kind], alpha=0.6 if labels else 1)
        if labels:
            size = f"{shape[1]} x {shape[2]} x {shape[3]}" if shape.rank == 4 else f"{shape[1]}"
            axes.text(x, 0.15, f"{layer.name}   {size}", rotation=90, ha="center", va="bottom", fontsize=7.5)
    top = max(height(name) for name in position)
    for name, inputs in sources(net).items():
        for source in inputs:
            if name in position and source in position and position[name] - position[source] > 1:
                left, right = position[source], position[name]
                x = np.linspace(0, 1, 50)
                start = max(height(source), height(name)) + 0.15
                rise = 2.4 if right - left > 10 else 1.2
                axes.plot(left + (right - left) * x, start + rise * 4 * x * (1 - x), color="#333", lw=0.9)
                axes.annotate(
                    "", (right, start - 0.15), (right, start + 0.3), arrowprops={"arrowstyle": "->"}
                )
    axes.set(xlim=(-0.7, len(layers) - 0.3), ylim=(0, top + 1.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def legend(figure: Figure, layers: list) -> None:
    kinds = dict.fromkeys(type(layer).__name__ for layer in layers)
    for i, kind in enumerate(kinds):
        figure.text(0.02 + 0.15 * i, 0.96, f"■ {kind}", color=COLOURS[kind], fontsize=11)


def draw_generator() -> None:
    with tf.Graph().as_default():
        net = SRGAN_g(v1.placeholder(tf.float32, [None, 96, 96, 3]), is_train=True)
        figure = Figure(figsize=(11, 5.5))
        whole, part = figure.subplots(2, 1, height_ratios=(2, 3))
        figure.subplots_adjust(0.01, 0.01, 0.99, 0.95, hspace=0.12)
        draw_network(whole, net, net.all_layers, labels=False)
        whole.set_title(f"all {len(net.all_layers)} layers", fontsize=9, loc="right")
        middle = [f"/{i}" for i in range(1, 16)]
        in_blocks = ("n64s1/c1", "n64s1/b1", "n64s1/c2", "n64s1/b2", "b_residual_add")
        shown = [
            layer
            for layer in net.all_layers
            if not (layer.name.startswith(in_blocks) and layer.name.endswith(tuple(middle)))
        ]
        draw_network(part, net, shown, labels=True)
        part.set_title(
            "the same without residual blocks 1 to 15; height x width x channels", fontsize=9, loc="right"
        )
        legend(figure, net.all_layers)
        save(figure, "generator.png")


def draw_discriminator() -> None:
    with tf.Graph().as_default():
        net, _ = SRGAN_d(v1.placeholder(tf.float32, [None, 384, 384, 3]), is_train=True)
        figure = Figure(figsize=(11, 4.7))
        axes = figure.subplots()
        figure.subplots_adjust(0.01, 0.01, 0.99, 0.95)
        draw_network(axes, net, net.all_layers, labels=True)
        legend(figure, net.all_layers)
        save(figure, "discriminator.png")


# The walkthrough


def draw_pixel_shuffle(photo: np.ndarray) -> None:
    """A gray detail as 4 channels, as a network would give them, and shuffled."""
    detail = photo[96:160, 208:272, 1].astype(np.float32)
    with tf.Graph().as_default(), v1.Session() as sess:
        channels = sess.run(tf.nn.space_to_depth(detail[None, ..., None], 2))
        shuffled = sess.run(tf.nn.depth_to_space(channels, 2))[0, ..., 0]
    figure = Figure(figsize=(9, 2.6))
    panels = figure.subplots(1, 6, width_ratios=(1, 1, 1, 1, 0.3, 2))
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.88, wspace=0.08)
    for i in range(4):
        show(panels[i], channels[0, ..., i], f"channel {i}, 32 x 32", cmap="gray")
    panels[4].text(0.5, 0.5, "→", fontsize=24, ha="center", va="center")
    panels[4].axis("off")
    show(panels[5], shuffled, "shuffled: 64 x 64", cmap="gray")
    save(figure, "pixel_shuffle.png")


def draw_detail(names: dict) -> None:
    """One detail at 3 times: LR, what is made of it, HR."""
    window = np.s_[20:84, 42:106]  # hair
    images = {"LR": enlarge(names["lr"], 4), **names["enlarged"], "HR": names["hr"]}
    sheet = side_by_side([enlarge(image[window], 3) for image in images.values()], list(images))
    Image.fromarray(sheet).save(FOLDER / "detail.png", optimize=True)


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def draw_losses(lines: list[dict]) -> None:
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    figure.subplots_adjust(0.08, 0.14, 0.98, 0.97)
    for name in ("mse_loss", "vgg_loss", "g_gan_loss", "d_loss"):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points), marker=".", label=name)
    first = next(line["step"] for line in lines if line["phase"] == "adversarial")
    axes.axvline(first, color="#999", lw=1)
    axes.axhline(2 * np.log(2), color="#999", lw=1, ls=":")
    axes.text(0, 1.5, "2 log 2", fontsize=8, color="#666")
    axes.set(yscale="log", xlabel="step; left of the line MSE alone, right of it adversarial", ylabel="loss")
    axes.legend(loc="lower left", fontsize=8)
    save(figure, "loss_curves.png")


def draw_opinion(lines: list[dict], theory: dict) -> None:
    """D(real) and D(generated) by the log's losses; the shipped D's map of a photograph and of srgan's."""
    lines = [line for line in lines if line["phase"] == "adversarial"]
    figure = Figure(figsize=(9, 3.4))
    curve, of_photo, of_sr = figure.subplots(1, 3, width_ratios=(1.7, 1, 1))
    figure.subplots_adjust(0.07, 0.15, 0.99, 0.9, wspace=0.08)
    steps = [line["step"] for line in lines]
    curve.plot(steps, [np.exp(-line["d_loss1"]) for line in lines], label="real")
    curve.plot(steps, [1 - np.exp(-line["d_loss2"]) for line in lines], label="generated")
    curve.axhline(0.5, color="#999", lw=1, ls=":")
    curve.set(ylim=(0, 1), xlabel="step")
    curve.set_title("D during the short run", fontsize=9)
    curve.legend(fontsize=8)
    with tf.Graph().as_default(), v1.Session() as sess:
        patches = v1.placeholder(tf.float32, [None, 96, 96, 3])
        net, _ = SRGAN_d(patches, is_train=True, **theory["meta_d"]["arguments"])
        assign(sess, net.all_params, theory["arrays_d"], "srgan")
        for axes, name in ((of_photo, "photograph"), (of_sr, "srgan")):
            image = theory["images"][name][:480, :480] / 127.5 - 1
            cut = image.reshape(5, 96, 5, 96, 3).swapaxes(1, 2).reshape(25, 96, 96, 3)
            opinion = sess.run(net.outputs, {patches: cut}).reshape(5, 5, 6, 6)  # 6 x 6 positions of a patch
            opinion = opinion.swapaxes(1, 2).reshape(30, 30)
            show(axes, opinion, f"shipped D of {name}: {opinion.mean():.2f}", vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(of_sr.images[0], ax=[of_photo, of_sr], fraction=0.03, pad=0.02)
    save(figure, "discriminator_opinion.png")


def features(images: np.ndarray, layer: str, weights: Path) -> np.ndarray:
    """[N, h, w, 3] RGB in [0, 1] -> VGG19's features."""
    with tf.Graph().as_default(), v1.Session() as sess:
        net, conv = vgg19.Vgg19_simple_api(tf.constant(images, tf.float32), reuse=False, layer=layer)
        assign(sess, net.all_params, vgg19.read_weights(weights, layer), weights)
        return sess.run(conv.outputs)


def draw_vgg(hr: np.ndarray, sr: np.ndarray, weights: Path) -> None:
    """16 channels of conv2_2; how far wrong inputs move the features, beside how far srresnet is from HR."""
    rgb = hr / 255.0
    right, wrong_range, wrong_order, of_sr = features(
        np.stack([rgb, 2 * rgb - 1, rgb[..., ::-1], sr / 255.0]), "conv2_2", weights
    )

    def moved(other: np.ndarray) -> str:
        return f"{np.sqrt(np.mean((other - right) ** 2) / np.mean(right**2)):.0%}"

    figure = Figure(figsize=(9, 2.9))
    grid = figure.add_gridspec(2, 10, left=0.01, right=0.99, top=0.82, bottom=0.02, wspace=0.06, hspace=0.06)
    show(figure.add_subplot(grid[:, :2]), hr, "")
    for i in range(16):
        show(figure.add_subplot(grid[i // 8, 2 + i % 8]), right[..., i], "", cmap="magma")
    figure.text(
        0.01,
        0.9,
        f"conv2_2 of a photograph. Relative distance: srresnet's version {moved(of_sr)}, "
        f"RGB for BGR {moved(wrong_order)}, [-1, 1] for [0, 1] {moved(wrong_range)}",
        fontsize=9,
    )
    save(figure, "vgg_conv2_2.png")


# The page of theory


def draw_edges(theory: dict) -> None:
    lr = bicubic.downsample(theory["a"], 4)
    panels = {
        "a": theory["a"],
        "b": theory["b"],
        "LR of both": enlarge(lr, 4),
        "mean of a and b": theory["mean"],
    }
    panels |= {"srresnet": theory["edge_sr"], "srgan": theory["upscale"]([lr], "srgan")[0]}
    figure = Figure(figsize=(9, 3.9))
    grid = figure.add_gridspec(
        2, 6, left=0.06, right=0.99, top=0.93, bottom=0.12, wspace=0.06, height_ratios=(1, 1)
    )
    for i, (name, image) in enumerate(panels.items()):
        show(figure.add_subplot(grid[0, i]), image[16:48, 16:48].astype(np.uint8), name)
    axes = figure.add_subplot(grid[1, :])
    for name in ("a", "b", "mean of a and b", "srresnet", "srgan"):
        axes.step(range(24, 41), panels[name][29, 24:41, 1], where="mid", label=name, lw=1.2)
    axes.set(ylabel="green", xlabel="column of row 29")
    axes.legend(fontsize=8)
    save(figure, "mse_blurs.png")


def draw_feature_loss(theory: dict, weights: Path) -> None:
    pieces = {"a piece": theory["piece"], "moved by 1 px": theory["moved"], "blurred": theory["blurred"]}
    rgb = np.stack(list(pieces.values())) / 255.0
    distances = {"pixels": rgb}
    distances |= {layer: features(rgb, layer, weights) for layer in ("conv2_2", "conv3_4")}
    figure = Figure(figsize=(9, 2.7))
    *panels, axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.6))
    figure.subplots_adjust(0.01, 0.12, 0.99, 0.88, wspace=0.12)
    for panel, (name, piece) in zip(panels, pieces.items()):
        show(panel, piece, name)
    for i, (name, values) in enumerate(distances.items()):
        moved, blurred = (np.mean((values[k] - values[0]) ** 2) for k in (1, 2))
        ratio = moved / blurred
        axes.barh(-i, np.log2(ratio), color="#d1615d" if ratio > 1 else "#6a9f58")
        axes.text(-4.6, -i, f"{name}: {ratio:.1f}", va="center", fontsize=9)
    axes.axvline(0, color="#333", lw=1)
    axes.set(xlim=(-4.7, 2), xticks=[], yticks=[])
    axes.set_title("squared distance: moved / blurred (log scale)", fontsize=9)
    save(figure, "feature_loss.png")


def draw_checkerboard(theory: dict) -> None:
    """Plain gray through generators, 20 times the contrast; how often strided convolutions read pixels."""
    gray = np.full([24, 24, 3], 128, np.uint8)
    panels = {"untrained": 127.5 * (theory["gray"] - theory["gray"].mean())}
    for name in ("srresnet", "srgan"):
        values = theory["upscale"]([gray], name)[0][32:64, 32:64, 1].astype(float)
        panels[name] = values - values.mean()
    figure = Figure(figsize=(9, 2.4))
    axes = figure.subplots(1, 5)
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.84, wspace=0.1)
    for panel, (name, values) in zip(axes, panels.items()):
        show(panel, values, f"gray by {name}\n±6 of 255", cmap="gray", vmin=-6, vmax=6)
    with tf.Graph().as_default(), v1.Session() as sess:
        for panel, kernel in zip(axes[3:], (3, 4)):
            x = tf.zeros([1, 16, 16, 1])
            y = tf.nn.conv2d(x, tf.ones([kernel, kernel, 1, 1]), 2, "SAME")
            reads = sess.run(tf.gradients(y, x)[0])[0, 4:12, 4:12, 0]
            show(
                panel,
                reads,
                f"reads of a pixel by\n{kernel}x{kernel}, stride 2",
                cmap="viridis",
                vmin=0,
                vmax=4,
            )
            for (row, column), count in np.ndenumerate(reads):
                panel.text(
                    column,
                    row,
                    f"{count:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="w" if count < 3 else "k",
                )
    save(figure, "checkerboard.png")


def draw_tradeoff(theory: dict) -> None:
    images, photo, lr = dict(theory["images"]), theory["photo"], theory["lr"]
    images["three quarters"] = theory["upscale"]([lr], "srresnet", [("srgan", 0.75)])[0]
    del images["photograph"]
    order = ("srresnet", "half", "three quarters", "srgan")
    fine = {name: theory["fine_power"](image) / theory["fine_power"](photo) for name, image in images.items()}
    psnr = {name: theory["psnr_y"](image, photo, 4) for name, image in images.items()}
    figure = Figure(figsize=(7, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(0.1, 0.15, 0.98, 0.97)
    axes.plot([fine[name] for name in order], [psnr[name] for name in order], marker="o")
    axes.plot(fine["bicubic"], psnr["bicubic"], "s", color="#967662")
    axes.axvline(1, color="#6a9f58", lw=1)
    axes.text(0.99, 27, "the photograph", rotation=90, ha="right", fontsize=8, color="#6a9f58")
    for name in ("bicubic", *order):
        axes.annotate(name, (fine[name], psnr[name]), (6, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="fine detail, as a fraction of the photograph's", ylabel="PSNR on Y, dB", ylim=(26.4, 30.2)
    )
    save(figure, "psnr_falls.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vgg", default="auto", help="VGG19 weights; default: as training finds them")
    parser.add_argument("--log", type=Path, help="train_log.jsonl of a run; default: a short one is made")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    try:
        vgg = vgg19.find_weights(args.vgg).resolve()
    except vgg19.MissingWeights as error:
        print(f"vgg_conv2_2.png and feature_loss.png are left as they are: {error}")
        vgg = None
    draw_generator()
    draw_discriminator()
    walkthrough, theory = variables_of("docs/walkthrough.md"), variables_of("docs/theory.md")
    draw_pixel_shuffle(theory["photo"])
    draw_detail(walkthrough)
    draw_edges(theory)
    draw_checkerboard(theory)
    draw_tradeoff(theory)
    if vgg:
        part = np.s_[64:192, 160:288]
        draw_vgg(theory["photo"][part], theory["images"]["srresnet"][part], vgg)
        draw_feature_loss(theory, vgg)
    with tempfile.TemporaryDirectory() as folder:
        lines = read_log(args.log or train(Path(folder), vgg))
    draw_losses(lines)
    draw_opinion(lines, theory)


if __name__ == "__main__":
    main()
