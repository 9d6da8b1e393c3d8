import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from common.errors import UserError
from images import bicubic, files
from training import dataset, patches
from training.dataset import Dataset

PX = 8
ROOT = Path(__file__).parents[2]


def write_images(folder, sizes):
    """Pictures whose red is their number, green their row, blue their column."""
    for number, (h, w) in enumerate(sizes):
        y, x = np.mgrid[:h, :w]
        image = np.stack([np.full((h, w), number), y, x], axis=2).astype(np.uint8)
        files.write_rgb(folder / f"{number:03}.png", image)


def make(folder, **changes):
    options = {"patch_size": PX, "scale": 4, "batch_size": 4, "seed": 0, "crops_per_image": 3} | changes
    return Dataset(folder, **options)


def epoch_of(data, epoch, first_step=0, part=(0, 1)):
    """The rest of an epoch's batches."""
    with contextlib.closing(data.stream(epoch, first_step, part)) as stream:
        yield from itertools.islice(stream, data.steps_per_epoch - first_step)


def hr_batches(data, epoch, first_step=0):
    yield from (hr for _, hr in epoch_of(data, epoch, first_step))


def input_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("srgan-input")]


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded, none of which stays in memory."""
    paths, read_rgb = [], files.read_rgb
    monkeypatch.setattr(files, "read_rgb", lambda path: paths.append(path) or read_rgb(path))
    monkeypatch.setattr(patches, "CACHE_BYTES", 0)
    return paths


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, [(16, 24)] * 10)
    return tmp_path


def test_batches_are_uint8_patches_cut_from_the_images_and_their_bicubic_lr(folder):
    batches = list(epoch_of(make(folder, augment=False), 0))
    assert len(batches) == 8  # 10 images x 3 crops / 4, rounded up
    for lr, hr in batches:
        assert hr.shape == (4, PX, PX, 3)
        assert hr.dtype == np.uint8
        np.testing.assert_array_equal(lr, [bicubic.downsample(patch, 4) for patch in hr])
        for patch in hr:
            assert (patch[..., 0] == patch[0, 0, 0]).all()
            np.testing.assert_array_equal(patch[:, 0, 1], patch[0, 0, 1] + np.arange(PX))
            np.testing.assert_array_equal(patch[0, :, 2], patch[0, 0, 2] + np.arange(PX))


def test_a_fraction_of_the_patches_is_darker_or_brighter_and_clipped(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    files.write_rgb(tmp_path / "ramp.png", ramp)
    options = {"patch_size": 16, "batch_size": 100, "crops_per_image": 400, "augment": False}
    patches = np.concatenate(list(hr_batches(make(tmp_path, **options, exposures=0.25), 0)))
    shifts = patches[:, 8, 0, 0].astype(int) - 128  # of a value that clips at the largest shifts only
    changed = shifts != 0
    assert 0.2 < changed.mean() < 0.3
    assert np.abs(shifts[changed]).min() >= 64
    assert 0.6 < (shifts[changed] < 0).mean() < 0.9  # three of four darker
    for patch, shift in zip(patches, shifts):
        if abs(shift) < 127:
            np.testing.assert_array_equal(patch, np.clip(ramp + np.int64(shift), 0, 255))


def test_every_image_gives_its_crops_and_the_last_batch_is_filled_from_the_start(folder):
    patches = np.concatenate(list(hr_batches(make(folder), 0)))
    counts = np.bincount(patches[:30, 0, 0, 0], minlength=10)
    np.testing.assert_array_equal(counts, [3] * 10)
    np.testing.assert_array_equal(patches[30:], patches[:2])
    (batch,) = hr_batches(make(folder, batch_size=24, crops_per_image=1), 0)
    np.testing.assert_array_equal(batch[10:20], batch[:10])
    np.testing.assert_array_equal(batch[20:], batch[:4])


def test_positions_and_all_8_symmetries_occur(folder):
    data = make(folder, crops_per_image=60)
    patches = np.concatenate(list(hr_batches(data, 0))).astype(int)
    steps_down = patches[:, 1, 0] - patches[:, 0, 0]  # what one row down changes: green or blue
    steps_right = patches[:, 0, 1] - patches[:, 0, 0]
    seen = {(*down[1:], *right[1:]) for down, right in zip(steps_down, steps_right)}
    assert len(seen) == 8
    assert set(patches[..., 1].min(axis=(1, 2))) == set(range(16 - PX + 1))
    assert set(patches[..., 2].min(axis=(1, 2))) == set(range(24 - PX + 1))


@pytest.mark.parametrize("degradation", ["bicubic", "photo"])
def test_batches_are_a_function_of_seed_epoch_and_position(folder, monkeypatch, degradation):
    def batches(epoch, first_step=0, count=8, seed=0):
        data = make(folder, degradation=degradation, seed=seed)
        with contextlib.closing(data.stream(epoch, first_step)) as stream:
            return [np.stack(images) for images in zip(*itertools.islice(stream, count))]

    lr, hr = whole = batches(5)
    assert lr.shape == (8, 4, PX // 4, PX // 4, 3) and lr.dtype == np.uint8
    monkeypatch.setattr(patches, "usable_cores", lambda: 16)
    for first_step in (0, 1, 3, 7):
        for images, resumed in zip(whole, batches(5, first_step, 8 - first_step)):
            np.testing.assert_array_equal(resumed, images[first_step:])
    for images, others in zip(whole, batches(4, 7, 9)):  # on into the next epoch
        np.testing.assert_array_equal(others[1:], images)
    for others in (batches(6), batches(5, seed=1)):
        assert (others[0] != lr).any() and (others[1] != hr).any()


def test_resuming_does_not_decode_what_was_skipped(tmp_path, decoded):
    write_images(tmp_path, [(16, 16)] * 40)
    list(hr_batches(make(tmp_path, crops_per_image=1), 0, first_step=8))
    assert len(decoded) == 8  # the crops of two batches of ten


@pytest.mark.parametrize(("pool", "fewest", "most"), [(2**20, 9, 24), (12, 0, 44 // 4)])
def test_crops_of_an_image_are_spread_as_far_as_they_may_wait(tmp_path, monkeypatch, pool, fewest, most):
    """Where 12 crops may wait, none moves by more than 12 positions: 20 of an image lie within 44."""
    monkeypatch.setattr(dataset, "_POOL_BYTES", pool * 3 * PX**2)
    write_images(tmp_path, [(16, 16)] * 30)
    batches = list(hr_batches(make(tmp_path, batch_size=4, crops_per_image=20), 0))
    for number in range(30):
        steps = [step for step, batch in enumerate(batches) if (batch[:, 0, 0, 0] == number).any()]
        assert len(steps) >= fewest and steps[-1] - steps[0] <= most


@pytest.mark.parametrize(("batch_size", "crops"), [(4, [4, 1, 1, 2]), (12, [4, 3, 3, 3])])
def test_large_images_give_crops_by_their_area(tmp_path, batch_size, crops):
    """One for each square of 2.5 patches, here 100 px; at least one, and more if a batch would repeat one."""
    for number, (h, w) in enumerate([(200, 200), (100, 100), (50, 80), (200, 100)]):
        files.write_rgb(tmp_path / f"{number}.png", np.full((h, w, 3), number, np.uint8))
    data = make(tmp_path, patch_size=40, crops_per_image=None, batch_size=batch_size)
    patches = np.concatenate(list(hr_batches(data, 0)))
    assert len(patches) == 2 * batch_size == data.steps_per_epoch * batch_size
    np.testing.assert_array_equal(np.bincount(patches[: sum(crops), 0, 0, 0]), crops)


@pytest.mark.parametrize(("budget", "decodes"), [(0, 10), (3.5 * 16 * 24 * 3, 7), (2**20, 0)])
def test_images_are_decoded_once_an_epoch_or_kept_if_they_fit_the_budget(
    folder, monkeypatch, decoded, budget, decodes
):
    monkeypatch.setattr(patches, "CACHE_BYTES", budget)
    data = make(folder, batch_size=3)
    assert data.listing["003.png"][2:] == (16, 24) and decoded == []
    list(hr_batches(data, 0))
    assert len(decoded) == data.num_images == len(set(decoded))
    decoded.clear()
    list(hr_batches(data, 1))
    assert len(decoded) == decodes


def test_preparation_stops_a_few_steps_ahead(tmp_path, decoded):
    write_images(tmp_path, [(16, 16)] * 60)
    batches = hr_batches(make(tmp_path, batch_size=2, crops_per_image=1), 0)
    next(batches)
    deadline = time.monotonic() + 5
    while len(decoded) < 18 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(decoded) == 18  # this step's two and those of eight steps ahead
    batches.close()


def test_threads_end_with_the_epoch_and_with_close_and_cost_nothing_while_they_wait(folder):
    data = make(folder, crops_per_image=30)
    list(hr_batches(data, 0))
    assert not input_threads()
    batches = hr_batches(data, 0)
    next(batches)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.3)
    assert input_threads() and time.process_time() - before < 0.05
    batches.close()
    assert not input_threads()


def test_unreadable_images_are_left_out_by_name_up_to_their_limit(folder, caplog):
    whole = make(folder)
    (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:60])  # its header is whole
    (folder / "005.jpg").write_bytes(b"")
    os.mkfifo(folder / "006.avif")  # would be waited for
    with pytest.raises(UserError, match=r"2 of 11 images cannot be read.*004\.png.*005\.jpg"):
        make(folder)
    data = make(folder, max_bad_images=0.2)
    assert data.num_images == whole.num_images - 1
    assert [record.getMessage().count("it is skipped") for record in caplog.records] == [1, 1]
    first, again = (np.stack(list(hr_batches(made, 0))) for made in (data, make(folder, max_bad_images=0.2)))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "lose",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: files.write_rgb(path, np.zeros((16, 20, 3), np.uint8)),
    ],
    ids=["deleted", "damaged", "resized"],
)
def test_an_image_lost_while_training_is_logged_once_and_another_stands_in(folder, caplog, decoded, lose):
    data = make(folder)
    lose(folder / "007.png")
    batches = np.concatenate([*hr_batches(data, 0), *hr_batches(data, 1)])
    assert len(caplog.records) == 1 and "007.png" in caplog.text and "used instead" in caplog.text
    assert 7 not in batches[:, 0, 0, 0]
    assert np.bincount(batches[:, 0, 0, 0], minlength=10)[8] > np.bincount(batches[:, 0, 0, 0])[6]
    for number in range(6):
        (folder / f"{number:03}.png").unlink()
    with pytest.raises(UserError, match="more than half of the images"):
        list(hr_batches(data, 0))
    assert not input_threads()


def test_errors_in_a_thread_reach_the_consumer_unchanged(folder, monkeypatch):
    data, error = make(folder), RuntimeError("boom")
    monkeypatch.setattr(files, "read_rgb", Mock(side_effect=error))
    with pytest.raises(RuntimeError) as caught:
        next(hr_batches(data, 0))
    assert caught.value is error


def test_small_images_are_left_out_and_logged_in_one_line(tmp_path, caplog):
    write_images(tmp_path, [(16, 16), (PX - 1, 16), (PX, PX), (16, 4)])
    assert make(tmp_path).num_images == 2
    (record,) = caplog.records
    assert all(words in record.getMessage() for words in ("2 images", "001.png", "003.png"))
    with pytest.raises(UserError, match=r"^A\.b: .*32 x 32 px"):
        make(tmp_path, patch_size=32, setting="A.b")


def test_fixed_patches_are_the_centres_of_the_first_images(folder):
    patches = make(folder).fixed_patches(12)[1]
    np.testing.assert_array_equal(patches[:, 0, 0, 0], [*range(10), 0, 1])
    assert (patches[:, 0, 0, 1:] == (4, 8)).all()  # (16 - 8) / 2, (24 - 8) / 2
    np.testing.assert_array_equal(make(folder, seed=9).fixed_patches(12)[1], patches)
    assert make("sample").num_images == 7


def test_folders_of_the_run_are_no_training_data(folder, tmp_path):
    (folder / "samples").mkdir()
    write_images(folder / "samples", [(16, 24)] * 2)
    data = make(folder, skip=[folder / "samples", folder / "checkpoint"])
    assert data.num_images == 10
    assert make(folder / "samples", skip=[folder / "samples"]).num_images == 2  # unless they are meant


@pytest.mark.parametrize("degradation", ["bicubic", "photo"])
def test_processes_cut_the_same_patches_as_threads(folder, degradation):
    made = [make(folder, degradation=degradation, exposures=0.3, processes=count) for count in (0, 2)]
    expected, got = (list(zip(*epoch_of(data, 0))) for data in made)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="more than half of the images"):
        list(hr_batches(made[1], 0))


def test_processes_outlive_a_signal_to_all_and_end_with_a_killed_parent(folder):
    script = """
import multiprocessing, sys
from training.dataset import Dataset
stream = Dataset(sys.argv[1], patch_size=8, scale=4, batch_size=1, seed=0, processes=1).stream(0)
while next(stream):
    print(multiprocessing.active_children()[0].pid, flush=True)
    sys.stdin.readline()
"""
    command, pipe = [sys.executable, "-c", script, folder], subprocess.PIPE
    options = {"cwd": ROOT, "text": True, "bufsize": 1}  # of lines
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, **options) as parent:
        process = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process, number)
        for _ in range(30):  # more than was cut ahead
            parent.stdin.write("\n")
            assert int(parent.stdout.readline()) == process
        parent.kill()
        parent.communicate(timeout=20)  # until nobody holds the pipe
