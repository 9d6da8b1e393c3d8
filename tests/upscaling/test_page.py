"""The page: refusals, and results in a real browser."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from examples import SETTINGS, random_image, write_weights
from PIL import Image

from common.errors import UserError
from images.files import read_rgb, write_rgb
from images.photos import validation_photo
from tf1 import checkpoints
from upscaling import page as page_module
from upscaling.page import Page, preview
from upscaling.upscaler import Upscaler, load_generator

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path):
    return Page(SETTINGS, write_weights(tmp_path / "own.npz"))


def enlarge(page, source, outscale=4.0, name=None, share=0.0):
    work = source.parent / "work"
    work.mkdir(exist_ok=True)
    return page.enlarge(source, name or page.default, share, outscale, work, lambda done: None)


def test_the_result_is_the_command_lines_in_the_same_format_and_folder(page, tmp_path):
    arrays, meta = load_generator(tmp_path / "own.npz")
    with Upscaler(arrays, meta["arguments"], SETTINGS) as upscaler:
        expected = upscaler(random_image(9, 14))
    for name in ("photo", "..;'\"&$(x)", "ä ö", "-rf"):
        write_rgb(tmp_path / f"{name}.png", random_image(9, 14))
        (cubic, shown), file = enlarge(page, tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_rgb(file), expected)
        assert file.parent == tmp_path / "work" and cubic.shape == shown.shape == (36, 56, 3)
    assert (tmp_path / "work/photo_x4.png").is_file()
    _, file = enlarge(page, tmp_path / "photo.png", outscale=2.5)
    assert file.name == "photo_x2.5.png" and read_rgb(file).shape == (22, 35, 3)


def test_the_weights_of_the_command_line_are_offered_once_and_first(page, tmp_path):
    assert list(page.weights) == [str(tmp_path / "own.npz"), *page_module.OURS]
    shipped = Page(SETTINGS, checkpoints.locate("srresnet"))
    assert shipped.default == "SRResNet: highest PSNR"
    assert sorted(shipped.weights) == sorted(page_module.OURS)
    (tmp_path / "no.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no\.npz"):
        Page(SETTINGS, tmp_path / "no.npz")


def test_jpeg_and_lossy_webp_get_the_weights_for_photographs(tmp_path):
    page = Page(SETTINGS)
    assert page.default == page_module.AUTOMATIC
    photo, srgan, srresnet = page_module.OURS
    image = Image.fromarray(random_image(9, 14))
    for name, options, expected in (
        ("a.jpg", {}, photo),
        ("a.webp", {}, photo),
        ("b.webp", {"lossless": True}, srgan),
        ("a.png", {}, srgan),
    ):
        image.save(tmp_path / name, **options)
        assert page.choose(page_module.AUTOMATIC, tmp_path / name) == expected
        assert page.choose(srresnet, tmp_path / name) == srresnet  # unless told otherwise


def test_sessions_of_weights_no_longer_in_use_are_closed(page):
    own = next(iter(page.weights))
    page.weights |= dict.fromkeys("ab", page.weights[own])
    second, first = (page.upscaler(name, 0.0) for name in (own, "a"))
    assert page.upscaler(own, 0.0) is second  # which is now the one used last
    page.upscaler("b", 0.0)
    assert second(random_image(9, 14)).shape == (36, 56, 3)
    with pytest.raises(RuntimeError, match="closed Session"):
        first(random_image(9, 14))


def test_hostile_uploads_are_refused_in_a_sentence_and_leave_no_file(page, tmp_path):
    for name, content in (
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("page.png", b"<html><script>alert(1)</script></html>"),
        ("empty.jpg", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(name)):
            enlarge(page, tmp_path / name)
    assert list((tmp_path / "work").iterdir()) == []


def test_values_that_the_form_does_not_offer_are_refused(page, tmp_path):
    write_rgb(tmp_path / "photo.png", random_image(4, 4))
    bad = [{"name": "../own.npz"}, {"share": 2.0}, {"share": np.nan}, {"outscale": 1e6}, {"outscale": 0}]
    for values in bad:
        with pytest.raises(UserError, match="choose weights from the list"):
            enlarge(page, tmp_path / "photo.png", **values)


def test_previews_are_bounded():
    assert preview(np.zeros((3200, 100, 3), np.uint8)).shape == (1600, 50, 3)
    assert preview(np.zeros((10, 20, 3), np.uint8)).shape == (10, 20, 3)


def test_a_missing_gradio_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"needs the package gradio: pip install -r requirements-page.txt"):
        page_module.serve(SETTINGS, checkpoints.locate("srgan"), "127.0.0.1", 7860)


# --- A real page


def temporary(pattern):
    return set(Path(tempfile.gettempdir()).glob(pattern))


def start():
    """(process, address) of a page that is up."""
    pytest.importorskip("gradio", reason="pip install -r requirements-page.txt")
    command = [sys.executable, "main.py", "--mode=page", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if address := re.search(r"http://\S+", line):
            return process, address[0]
    pytest.fail(f"the page did not come up: {process.stderr.read()}")


def end(process, number):
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    return errors


@pytest.fixture(scope="module")
def address():
    process, address = start()
    yield address
    end(process, signal.SIGINT)


def answer_of(address, session, data):
    """The last event of a click on Enlarge with the given data."""
    import httpx

    dependencies = httpx.get(f"{address}/config").json()["dependencies"]
    [function] = [dependency["id"] for dependency in dependencies if len(dependency["inputs"]) == 4]
    click = {"data": data, "fn_index": function, "session_hash": session}
    joined = httpx.post(f"{address}/gradio_api/queue/join", json=click, timeout=60).text
    if "event_id" not in joined:
        return joined
    queue = f"{address}/gradio_api/queue/data"
    events = httpx.get(queue, params={"session_hash": session}, timeout=60).text
    return next(event for event in events.splitlines() if "process_completed" in event)


def test_hostile_requests_reach_no_file(address, tmp_path):
    secret, outside = tmp_path / "secret.png", tmp_path / "visitor-x"
    write_rgb(secret, random_image(8, 8))
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    before = temporary("srgan-page-*/*")
    requests = [
        *((session, str(secret)) for session in ("a", f"../../..{outside}", f"x/../../../..{outside}", "..")),
        *(("b", path) for path in ("../../etc/passwd", "/etc/passwd", str(secret))),
    ]
    for session, path in requests:
        upload = {"path": path, "orig_name": f"../../{outside}/x.png", "meta": {"_type": "gradio.FileData"}}
        answer = answer_of(address, session, [upload, page_module.AUTOMATIC, 0, 4])
        assert '"success":false' in answer.replace(" ", "") and "secret_x4" not in answer
    assert [path.read_text() for path in outside.iterdir()] == ["kept"]
    assert temporary("srgan-page-*/*") == before


def test_sigterm_ends_the_page_and_removes_its_folder():
    before = temporary("srgan-page-*")
    process, _ = start()
    assert len(temporary("srgan-page-*") - before) == 1
    assert end(process, signal.SIGTERM) == ""
    assert temporary("srgan-page-*") == before


@pytest.fixture(scope="module")
def browser(address):
    pytest.importorskip("playwright", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, address, width=1280, height=900):
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.set_default_timeout(60_000)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(address)
    tab.get_by_role("button", name="Enlarge").wait_for()
    return tab


def enlarge_in(tab, path):
    """Chooses a file, again if the page did not listen yet, and clicks."""
    from playwright.sync_api import TimeoutError as NotShown

    name, attempts = tab.get_by_text(path.name).first, 4
    for attempt in range(attempts):
        tab.set_input_files("#image input[type=file]", str(path))
        try:
            name.wait_for(timeout=15_000)
            break
        except NotShown:
            assert attempt + 1 < attempts
            tab.reload()
    tab.get_by_role("button", name="Enlarge").click()


def test_the_browser_gets_the_command_lines_result(browser, address, tmp_path):
    write_rgb(tmp_path / "photo.png", validation_photo()[:60, :80])
    tab = opened(browser, address)
    enlarge_in(tab, tmp_path / "photo.png")
    link = tab.locator("#result a[download]").first
    link.wait_for(timeout=90_000)
    tab.locator("#compare img").first.wait_for()
    with tab.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "page.png")
    assert download.value.suggested_filename == "photo_x4.png"
    command = [sys.executable, "main.py", "--mode=evaluate", "--weights", "srgan", "--input"]
    command += [str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "page.png").read_bytes() == (tmp_path / "out/photo_x4.png").read_bytes()

    compare = tab.locator("#compare")
    box = compare.bounding_box()
    before = compare.screenshot()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 5, middle, steps=5)
    tab.mouse.up()
    tab.wait_for_timeout(300)
    assert compare.screenshot() != before
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []


def test_the_browser_shows_a_sentence_for_a_broken_image(browser, address, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"<html>")
    tab = opened(browser, address)
    enlarge_in(tab, tmp_path / "broken.png")
    tab.get_by_text("cannot read").first.wait_for(timeout=60_000)
    assert str(tmp_path) not in tab.content()


def test_the_page_fits_a_phone_and_works_by_keyboard(browser, address):
    tab = opened(browser, address, 390, 844)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    seen = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        seen.add(tab.evaluate("document.activeElement.closest('#image, #weights, #go')?.id"))
    assert {"image", "weights", "go"} <= seen
