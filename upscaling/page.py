"""A Gradio web page that enlarges uploaded images (`--mode=page`).

Images are upscaled one at a time; others queue. The page makes no outbound requests. Uploads and results are
kept in a temporary folder: Gradio deletes them after an hour, and the folder is removed when the page stops.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from common.errors import UserError
from images import bicubic, photos
from images.files import Source, read_rgb, write_rgb
from images.pixels import resize
from tf1 import checkpoints
from upscaling.images import upscale_image
from upscaling.jobs import plan_outputs
from upscaling.upscaler import Upscaler, load_generator

log = logging.getLogger("srgan")

PREVIEW_PX = 1600  # longest side of the images in the slider; downloads have full size
CLEAN_EVERY_SECONDS, KEPT_SECONDS = 600, 3600  # of uploads and results
MAX_UPLOAD = "500mb"
MAX_OUTSCALE = 16
EXAMPLE_PX = 128
KEPT_UPSCALERS = 2  # each holds a session
AUTOMATIC = "Automatic: by file type"
OURS = {
    "Photo: for JPEG, WebP, phones and the web": "photo",
    "SRGAN: natural texture from clean images": "srgan",
    "SRResNet: highest PSNR": "srresnet",
}


class Page:
    """The available generators and the action of the Enlarge button."""

    def __init__(self, settings, own: Path | None = None, engine: str = "tensorflow"):
        """own: weights given on the command line, which become the default and are loaded at once."""
        self.settings, self.engine = settings, engine
        self.weights = {name: checkpoints.locate(shipped) for name, shipped in OURS.items()}
        names = {path: name for name, path in self.weights.items()}
        self.default = AUTOMATIC if own is None else names.get(own, str(own))
        if own is not None:
            self.weights = {self.default: own, **self.weights}
        self.upscalers: dict[tuple[str, float], Upscaler] = {}
        self.scale = self.upscaler(next(iter(self.weights)), 0.0).scale

    def choose(self, name: str, source: Path) -> str:
        """Resolves AUTOMATIC: the weights for photographs if the file is lossy JPEG or WebP, else SRGAN's."""
        photo, srgan, *_ = OURS
        return name if name != AUTOMATIC else photo if Source(source).is_lossy() else srgan

    def upscaler(self, name: str, share: float) -> Upscaler:
        """Returns the upscaler for weights blended with `share` of SRResNet's; caches the latest ones."""
        upscaler = self.upscalers.pop((name, share), None)
        if upscaler is None:
            arrays, meta = load_generator(self.weights[name], [("srresnet", share)] if share else [])
            if len(self.upscalers) == KEPT_UPSCALERS:
                self.upscalers.pop(next(iter(self.upscalers))).close()
            upscaler = Upscaler(
                arrays, meta["arguments"], self.settings, source=self.weights[name], engine=self.engine
            )
        self.upscalers[name, share] = upscaler  # most recently used last
        return upscaler

    def enlarge(self, source: Path, name: str, share: float, outscale: float, work: Path, progress):
        """Returns ((bicubic, result) for the slider, the result's file in `work`).

        Raises UserError for values outside the form's range. The result's name is derived from the uploaded
        file, so a request cannot choose where to write.
        """
        if not (name in (AUTOMATIC, *self.weights) and 0 <= share <= 1 and 1 <= outscale <= MAX_OUTSCALE):
            raise UserError(
                f"choose weights from the list, a share from 0 to 1 and a factor from 1 to {MAX_OUTSCALE}"
            )
        upscaler = self.upscaler(self.choose(name, source), share)
        [job] = plan_outputs([source], work, outscale=outscale)
        upscale_image(lambda pixels, _: upscaler(pixels, progress), job, outscale, upscaler.scale)
        result = read_rgb(job.target)
        cubic = resize(
            bicubic.upsample(read_rgb(source), upscaler.scale), *result.shape[:2], Image.Resampling.BICUBIC
        )
        return (preview(cubic), preview(result)), job.target


def preview(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(1.0, PREVIEW_PX / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return resize(image, *size, Image.Resampling.LANCZOS)


def serve(settings, own: Path | None, host: str, port: int, engine: str = "tensorflow") -> NoReturn:
    """Serves the page until Ctrl-C or SIGTERM; does not return. port: 0 for any free port."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="srgan-page-") as folder:
        # Results are made outside the cache: Gradio copies a file only if it is not there yet.
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "cache")
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise UserError(
                f"--mode=page needs the package {error.name}: pip install -r requirements-page.txt"
            ) from None
        made = blocks(gradio, Page(settings, own, engine), Path(folder))
        port = port or _free_port(host)
        try:
            made.queue(default_concurrency_limit=1).launch(
                server_name=host,
                server_port=port,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                enable_monitoring=False,
                ssr_mode=False,
                max_file_size=MAX_UPLOAD,
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=CSS,
            )
        except OSError as error:
            raise UserError(f"--port {port}: {error}; choose another port") from None
        received = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: (received.append(number), stop.set()))
        log.info("The page is at http://%s:%d - stop it with Ctrl-C", host, port)
        stop.wait()
    # Exit at once: a Gradio thread may still be upscaling and cannot be interrupted.
    sys.stdout.flush()
    os._exit(128 + received[0])


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


CSS = "footer {display: none} .gradio-container {max-width: 1200px !important; margin: auto}"


def blocks(gradio, page: Page, folder: Path):
    """Builds the page's components and connects them."""

    def enlarge(source, name, share, outscale, progress=gradio.Progress()):  # noqa: B008
        if not source:
            raise gradio.Error("Choose an image first.", print_exception=False)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            try:
                compared, file = page.enlarge(
                    Path(source), name, share, outscale, Path(work), lambda done: progress(done, "Enlarging")
                )
            except UserError as error:
                hidden = str(error).replace(f"{Path(source).parent}/", "")
                raise gradio.Error(hidden, print_exception=False) from None
            yield compared, str(file)  # Gradio copies the file into its cache and cleans that later

    with gradio.Blocks(
        title="SRGAN x4",
        analytics_enabled=False,
        delete_cache=(CLEAN_EVERY_SECONDS, KEPT_SECONDS),
        fill_width=False,
    ) as made:
        gradio.Markdown("# SRGAN x4\nDrop an image here or choose an example. Images stay on this machine.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                source = gradio.File(label="Image", file_count="single", type="filepath", elem_id="image")
                gradio.Examples(_examples(folder), source, label="Examples")
                name = gradio.Dropdown(
                    [AUTOMATIC, *page.weights], value=page.default, label="Weights", elem_id="weights"
                )
                share = gradio.Slider(0, 1, 0, step=0.1, label="Share of SRResNet (less grain, less detail)")
                outscale = gradio.Slider(1, MAX_OUTSCALE, page.scale, step=0.5, label="Final factor")
                go = gradio.Button("Enlarge", variant="primary", elem_id="go")
            with gradio.Column(scale=2, min_width=300):
                compare = gradio.ImageSlider(
                    label="Bicubic | result", type="numpy", format="png", elem_id="compare"
                )
                file = gradio.File(label="Download", interactive=False, elem_id="result")
        go.click(
            enlarge, [source, name, share, outscale], [compare, file], concurrency_limit=1, api_name=False
        )
    return made


def _examples(folder: Path) -> list[str]:
    """Writes small full-resolution crops of the sample photographs as example inputs."""
    paths = []
    (folder / "examples").mkdir()
    for name, photo in list(photos.sample_photos().items())[:3]:
        top, left = ((side - EXAMPLE_PX) // 2 for side in photo.shape[:2])
        paths.append(folder / "examples" / f"{name}.png")
        write_rgb(paths[-1], photo[top : top + EXAMPLE_PX, left : left + EXAMPLE_PX])
    return [str(path) for path in paths]
