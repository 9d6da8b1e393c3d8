"""The page: what it refuses, and, in a real browser, what one gets from it."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_upscaler import NETWORKS, SETTINGS, picture, write_weights

from common.errors import UserError
from images.files import read_rgb, write_rgb
from upscaling import page as page_module
from upscaling.page import Closed, Page, preview
from upscaling.upscaler import Upscaler, load_generator

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path):
    weights = write_weights(tmp_path / "own.npz", NETWORKS["tensorlayer"])
    return Page(tmp_path / "page", SETTINGS, weights)


def enlarge(page, source, outscale=4.0, visitor="a", progress=lambda done: None):
    return page.enlarge(str(source), "own.npz", 0.0, outscale, visitor, progress)


def test_the_result_is_the_command_lines_in_the_format_it_came_in(page, tmp_path):
    write_rgb(tmp_path / "photo.png", picture(9, 14))
    (cubic, shown), file = enlarge(page, tmp_path / "photo.png")
    arrays, meta = load_generator(tmp_path / "own.npz")
    with Upscaler(arrays, meta["arguments"], SETTINGS) as upscaler:
        np.testing.assert_array_equal(read_rgb(file), upscaler(picture(9, 14)))
    assert file.name == "photo_x4.png" and cubic.shape == shown.shape == (36, 56, 3)
    _, file = enlarge(page, tmp_path / "photo.png", outscale=2.5)
    assert file.name == "photo_x2.5.png" and read_rgb(file).shape == (22, 35, 3)


def test_own_weights_are_offered_first_and_may_be_blended(page):
    assert list(page.weights) == ["own.npz", *page_module.OURS]


def test_sessions_of_weights_no_longer_in_use_are_closed(page):
    page.weights |= dict.fromkeys("ab", page.weights["own.npz"])
    second, first = (page.upscaler(name, 0.0) for name in ("own.npz", "a"))
    assert page.upscaler("own.npz", 0.0) is second  # which is now the one used last
    page.upscaler("b", 0.0)
    assert second(picture(9, 14)).shape == (36, 56, 3)
    with pytest.raises(RuntimeError, match="closed Session"):
        first(picture(9, 14))


def declared(side):
    """A PNG whose header says so and which holds nothing."""
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", zlib.crc32(header[4:]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("big.png", declared(30000)),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("page.png", b"<html><script>alert(1)</script></html>"),
        ("empty.jpg", b""),
    ],
)
def test_hostile_uploads_are_refused_in_a_sentence_and_leave_nothing(page, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)):
        enlarge(page, tmp_path / name)
    assert list(page.of_visitor("a").rglob("*")) == []


@pytest.mark.parametrize("name", ["..;'\"&$(x).png", "ä ö.png", "-rf.png"])
def test_strange_names_stay_names(page, tmp_path, name):
    write_rgb(tmp_path / "uploads" / name, picture(1, 1))
    _, file = enlarge(page, tmp_path / "uploads" / name)
    assert file.parent == page.of_visitor("a") and read_rgb(file).shape == (4, 4, 3)


def test_closing_the_page_stops_the_work_and_removes_the_files(page, tmp_path):
    upload = page.folder / "0123/photo.png"
    write_rgb(upload, picture(300, 300))
    enlarge(page, upload)
    assert page.of_visitor("a").exists()
    page.closed.add("a")
    with pytest.raises(Closed):
        enlarge(page, upload)
    page.close("a")
    assert not (page.folder / "visitor-a").exists() and not upload.exists()


def test_two_visitors_are_served_one_after_the_other(page, tmp_path):
    write_rgb(tmp_path / "photo.png", picture(9, 14))
    events, first_is_at_work = [], threading.Event()

    def progress(visitor):
        def show(done):
            events.append(visitor)
            first_is_at_work.set()
            time.sleep(0.2)

        return show

    first = threading.Thread(target=enlarge, args=(page, tmp_path / "photo.png", 4.0, "a", progress("a")))
    first.start()
    first_is_at_work.wait(60)
    enlarge(page, tmp_path / "photo.png", visitor="b", progress=progress("b"))
    first.join()
    assert events == sorted(events) and {"a", "b"} == set(events)


def test_previews_are_bounded():
    assert preview(np.zeros((3200, 100, 3), np.uint8)).shape == (1600, 50, 3)
    assert preview(np.zeros((10, 20, 3), np.uint8)).shape == (10, 20, 3)


def test_a_missing_gradio_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"needs the package gradio: pip install -r requirements-page.txt"):
        page_module.serve(SETTINGS, None, "127.0.0.1", 7860)


# --- In a browser


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("gradio", reason="pip install -r requirements-page.txt")
    pytest.importorskip("playwright", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--mode=page", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "The page is at" in line:
            break
    else:
        pytest.fail("the page did not come up")
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()


@pytest.fixture(scope="module")
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, address, width, height):
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(address)
    tab.get_by_role("button", name="Enlarge").wait_for()
    return tab


def test_in_a_browser_a_picture_goes_in_and_the_command_lines_comes_out(browser, address, tmp_path):
    write_rgb(tmp_path / "photo.png", read_rgb(_example())[:60, :80])
    tab = opened(browser, address, 1280, 900)
    tab.set_input_files("#picture input[type=file]", str(tmp_path / "photo.png"))
    tab.get_by_text("photo.png").first.wait_for()
    tab.get_by_role("button", name="Enlarge").click()
    link = tab.locator("#result a[download]").first
    link.wait_for(timeout=90_000)
    tab.locator("#compare img").first.wait_for()
    with tab.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "page.png")
    assert download.value.suggested_filename == "photo_x4.png"
    command = [sys.executable, "main.py", "--mode=evaluate", "--weights", _shipped(), "--input"]
    command += [str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "page.png").read_bytes() == (tmp_path / "out/photo_x4.png").read_bytes()

    compare = tab.locator("#compare")
    box = compare.bounding_box()
    before = compare.screenshot()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 5, box["y"] + box["height"] / 2, steps=5)
    tab.mouse.up()
    tab.wait_for_timeout(300)
    assert compare.screenshot() != before
    if screenshot := os.environ.get("SCREENSHOT"):
        tab.screenshot(path=screenshot)
    foreign = [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []


def test_in_a_browser_a_broken_picture_is_a_sentence(browser, address, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"<html>")
    tab = opened(browser, address, 1280, 900)
    tab.set_input_files("#picture input[type=file]", str(tmp_path / "broken.png"))
    tab.get_by_text("broken.png").first.wait_for()
    tab.get_by_role("button", name="Enlarge").click()
    tab.get_by_text("cannot read").first.wait_for(timeout=60_000)
    assert str(tmp_path) not in tab.content()


def test_it_fits_a_phone_and_works_by_keyboard(browser, address):
    tab = opened(browser, address, 390, 844)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    seen = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        seen.add(tab.evaluate("document.activeElement.closest('#picture, #weights, #go')?.id"))
    assert {"picture", "weights", "go"} <= seen


def _example():
    from images.photos import SAMPLE_FILES, packaged

    return packaged(*next(iter(SAMPLE_FILES.values())))


def _shipped():
    from tf1 import checkpoints

    return str(checkpoints.pretrained("g_srgan.npz").absolute())
