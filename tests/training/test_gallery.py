"""The samples as an animation and a page."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from images.files import write_rgb
from training import gallery

SHADES = {"srgan_ginit": 10, "srgan_gan": 20}


@pytest.fixture
def samples(tmp_path):
    for folder, epochs in (("srgan_gan", (10, 9)), ("srgan_ginit", (1, 2, 10))):
        for epoch in epochs:
            write_rgb(
                tmp_path / folder / f"train_{epoch}.png",
                np.full((40, 80, 3), SHADES[folder] * epoch, np.uint8),
            )
    write_rgb(tmp_path / "srgan_gan/_train_sample_96.png", np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def test_sheets_are_in_the_order_of_training(samples):
    found = [(folder, epoch) for folder, epoch, _ in gallery.sheets(samples)]
    assert found == [
        ("srgan_ginit", 1),
        ("srgan_ginit", 2),
        ("srgan_ginit", 10),
        ("srgan_gan", 9),
        ("srgan_gan", 10),
    ]


def test_the_animation_has_a_frame_for_each_sheet_up_to_its_limit(samples, monkeypatch):
    gallery.write_animation(samples)
    frames = iio.imread(samples / "progress.webp", index=...)
    assert frames.shape == (5, 40, 80, 3)
    np.testing.assert_allclose(frames[:, 20, 40, 0], [10, 20, 100, 180, 200], atol=4)
    monkeypatch.setattr(gallery, "MOST_FRAMES", 3)
    monkeypatch.setattr(gallery, "FRAME_WIDTH", 40)
    gallery.write_animation(samples)
    frames = iio.imread(samples / "progress.webp", index=...)
    assert frames.shape == (3, 20, 40, 3)
    np.testing.assert_allclose(frames[:, 10, 20, 0], [10, 100, 200], atol=4)
    with Image.open(samples / "progress.webp") as file:
        assert file.info["loop"] == 0


def test_the_page_shows_what_there_is_and_the_newest_samples(samples):
    write_rgb(samples / "learning_curve.png", np.zeros((8, 8, 3), np.uint8))
    gallery.write_index(samples, {"phase": "<b>", "step": 7, "mse_loss": 0.123456})
    page = (samples / "index.html").read_text()
    for part in (
        "srgan_gan/train_10.png",
        "srgan_ginit/train_10.png",
        "learning_curve.png",
        "0.1235",
        "&lt;b&gt;",
    ):
        assert part in page
    assert "progress.webp" not in page and "train_9.png" not in page and "http" not in page
