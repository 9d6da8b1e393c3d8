"""A page on this machine where one drops a picture and sees it enlarged (`--mode=page`), by Gradio.

One picture is upscaled at a time, the others queue. Nothing is asked of other hosts; uploads and results lie
in a folder of their own, which ends with the page.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from images import bicubic, photos
from images.bicubic import SCALE
from images.files import read_rgb, write_rgb
from images.pixels import resize
from tf1 import checkpoints
from upscaling.folders import upscale_picture
from upscaling.jobs import plan_outputs
from upscaling.upscaler import Upscaler, load_generator

log = logging.getLogger("srgan")

PREVIEW_PX = 1600  # longest side of what the slider shows; the file to download is whole
KEPT_SECONDS = 3600  # of uploads and results whose page was not closed
EXAMPLE_PX = 128
KEPT_UPSCALERS = 2  # each holds a session
OURS = {"SRGAN: natural texture": "g_srgan.npz", "SRResNet: nearest on average": "g_srresnet.npz"}


class Closed(Exception):
    """The page that waited for a result is gone."""


class Page:
    """The generators, and what is known of each visitor: a folder that ends with the visit."""

    def __init__(self, folder: Path, settings, chosen: Path | None):
        """chosen: weights that the command line names, offered first."""
        self.folder, self.settings = folder, settings
        self.weights = {name: checkpoints.pretrained(file) for name, file in OURS.items()}
        if chosen is not None and chosen not in self.weights.values():
            self.weights = {chosen.name: chosen, **self.weights}
        self.upscalers: dict[tuple[str, float], Upscaler] = {}
        self.closed: set[str] = set()
        self.uploads: dict[str, set[Path]] = {}  # of each visitor
        self.one_at_a_time = threading.Lock()

    def upscaler(self, name: str, share: float) -> Upscaler:
        """By weights of a name, blended with `share` of SRResNet's; the last ones are kept."""
        upscaler = self.upscalers.pop((name, share), None)
        if upscaler is None:
            other = checkpoints.pretrained(OURS["SRResNet: nearest on average"])
            arrays, meta = load_generator(self.weights[name], [(str(other), share)] if share else [])
            if len(self.upscalers) == KEPT_UPSCALERS:
                self.upscalers.pop(next(iter(self.upscalers))).close()
            upscaler = Upscaler(arrays, meta["arguments"], self.settings, source=self.weights[name])
        self.upscalers[name, share] = upscaler  # as the one used last
        return upscaler

    def of_visitor(self, visitor: str) -> Path:
        folder = self.folder / f"visitor-{visitor}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def enlarge(self, source: str, name: str, share: float, outscale: float, visitor: str, progress):
        """((bicubic, result) to be compared, the result's file); UserError for what is refused."""
        self.uploads.setdefault(visitor, set()).add(Path(source))
        with self.one_at_a_time, tempfile.TemporaryDirectory(dir=self.of_visitor(visitor)) as work:

            def show(done: float) -> None:
                if visitor in self.closed:
                    raise Closed
                progress(done)

            upscale = functools.partial(self.upscaler(name, share), progress=show)
            [job] = plan_outputs([source], Path(work), outscale=outscale)
            upscale_picture(lambda pixels, _: upscale(pixels), job, outscale)
            file = self.of_visitor(visitor) / job.target.name
            os.replace(job.target, file)
        result = read_rgb(file)
        cubic = resize(bicubic.upsample(read_rgb(Path(source))), *result.shape[:2], Image.Resampling.BICUBIC)
        return (preview(cubic), preview(result)), file

    def close(self, visitor: str) -> None:
        """Stops what is computed for a visitor who has gone, and removes his files."""
        self.closed.add(visitor)
        shutil.rmtree(self.folder / f"visitor-{visitor}", ignore_errors=True)
        for upload in self.uploads.pop(visitor, ()):
            if self.folder in upload.parents and self.folder / "examples" not in upload.parents:
                upload.unlink(missing_ok=True)


def preview(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(1.0, PREVIEW_PX / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return resize(image, *size, Image.Resampling.LANCZOS)


def serve(settings, chosen: Path | None, host: str, port: int) -> None:
    """Serves the page until Ctrl-C."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="srgan-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise UserError(
                f"--mode=page needs the package {error.name}: pip install -r requirements-page.txt"
            ) from None
        page = Page(Path(folder), settings, chosen)
        try:
            blocks(gradio, page).queue(default_concurrency_limit=1).launch(
                server_name=host,
                server_port=port,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                enable_monitoring=False,
                ssr_mode=False,
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=CSS,
            )
        except OSError as error:
            raise UserError(f"--port {port}: {error}; name another one") from None
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the folder is removed
        log.info("The page is at http://%s:%d - Ctrl-C ends it", host, port)
        threading.Event().wait()


CSS = "footer {display: none} .gradio-container {max-width: 1200px !important; margin: auto}"


def blocks(gradio, page: Page):
    """The page's parts and what they do."""

    def enlarge(source, name, share, outscale, request, progress=gradio.Progress()):  # noqa: B008
        if not source:
            raise gradio.Error("Choose a picture first.", print_exception=False)
        try:
            compared, file = page.enlarge(
                source, name, share, outscale, request.session_hash, lambda done: progress(done, "Enlarging")
            )
            return compared, str(file)
        except UserError as error:
            hidden = str(error).replace(f"{Path(source).parent}/", "")
            raise gradio.Error(hidden, print_exception=False) from None
        except Closed:
            log.info("A page was closed: its work has ended")
            return None, None

    def close(request) -> None:
        page.close(request.session_hash)

    # Gradio looks at types, which are texts here
    enlarge.__annotations__["request"] = close.__annotations__["request"] = gradio.Request

    with gradio.Blocks(
        title="SRGAN x4", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS), fill_width=False
    ) as made:
        gradio.Markdown("# SRGAN x4\nDrop a picture, or take an example; both stay on this machine.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                source = gradio.File(label="Picture", file_count="single", type="filepath", elem_id="picture")
                gradio.Examples(_examples(page.folder), source, label="Examples")
                name = gradio.Dropdown(list(page.weights), label="Weights", elem_id="weights")
                share = gradio.Slider(0, 1, 0, step=0.1, label="Share of SRResNet: less grain, less detail")
                outscale = gradio.Slider(1, 16, SCALE, step=0.5, label="Final factor")
                go = gradio.Button("Enlarge", variant="primary", elem_id="go")
            with gradio.Column(scale=2, min_width=300):
                compare = gradio.ImageSlider(
                    label="Bicubic | result", type="numpy", format="png", elem_id="compare"
                )
                file = gradio.File(label="Download", interactive=False, elem_id="result")
        go.click(
            enlarge, [source, name, share, outscale], [compare, file], concurrency_limit=1, api_name=False
        )
        made.unload(close)
    return made


def _examples(folder: Path) -> list[str]:
    """Small crops of the embedded photographs, which training did not see at this size."""
    paths = []
    (folder / "examples").mkdir()
    for name, photo in list(photos.sample_photos().items())[:3]:
        top, left = ((side - EXAMPLE_PX) // 2 for side in photo.shape[:2])
        paths.append(folder / "examples" / f"{name}.png")
        write_rgb(paths[-1], photo[top : top + EXAMPLE_PX, left : left + EXAMPLE_PX])
    return [str(path) for path in paths]
