"""Drawn pages to train with: reproducible, flat with clear edges, written atomically, never over others."""

import random
import sys
from unittest.mock import Mock

import draw_pages
import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="module")
def pages():
    return [np.asarray(draw_pages.draw_page(number)).astype(int) for number in range(6)]


def test_each_number_is_one_page(pages):
    assert np.array_equal(np.asarray(draw_pages.draw_page(3)), pages[3])
    assert {page.shape for page in pages} == {(480, 480, 3)}
    assert len({page.tobytes() for page in pages}) == len(pages)


def test_pages_are_flat_but_for_clear_edges(pages):
    for page in pages:
        steps = np.abs(np.diff(page, axis=1)).max(axis=2)
        assert (steps <= 1).mean() > 0.6  # a ramp is flat too
        assert (steps > 70).mean() > 0.005


GROUND = (250, 250, 250)


def drawn(draw) -> np.ndarray:
    """A panel of 200 x 120 px with one kind of thing on it."""
    panel = Image.new("RGB", (200 * draw_pages.FINE, 120 * draw_pages.FINE), GROUND)
    draw(random.Random(1), ImageDraw.Draw(panel), GROUND, 200, 120)
    return np.asarray(panel.resize((200, 120), Image.Resampling.BOX)).astype(int)


@pytest.mark.parametrize("draw", [draw_pages.draw_text, draw_pages.draw_lines, draw_pages.draw_shapes])
def test_each_kind_marks_its_ground_clearly_with_smooth_edges_and_leaves_some_of_it(draw):
    distance = np.abs(drawn(draw) - GROUND).max(axis=2)
    assert (distance > 70).mean() > 0.01
    assert (distance == 0).mean() > 0.1
    assert ((distance > 0) & (distance < 70)).mean() > 0.002  # between the two, at edges


def test_text_is_in_several_fonts(monkeypatch):
    truetype = Mock(wraps=draw_pages.ImageFont.truetype)
    monkeypatch.setattr(draw_pages.ImageFont, "truetype", truetype)
    drawn(draw_pages.draw_text)
    assert len({call.args[0] for call in truetype.call_args_list}) > 2


def draw(monkeypatch, folder, count):
    monkeypatch.setattr(sys, "argv", ["draw_pages.py", str(folder), str(count)])
    draw_pages.main()


def test_existing_pages_are_kept_and_the_others_are_drawn(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a/pages"
    folder.mkdir(parents=True)
    (folder / "page_001.png").write_bytes(b"mine")
    draw(monkeypatch, folder, 3)
    assert "3 pages, 2 of them new" in capsys.readouterr().out
    assert (folder / "page_001.png").read_bytes() == b"mine"
    for number in (0, 2):
        with Image.open(folder / f"page_00{number}.png") as page:
            assert page.tobytes() == draw_pages.draw_page(number).tobytes()
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_a_stop_or_a_full_disk_leaves_complete_pages_only(error, code, tmp_path, monkeypatch, capsys):
    def failing_save(page, path, saved=Image.Image.save):
        saved(page, path)
        if (tmp_path / "page_000.png").exists():
            path.write_bytes(path.read_bytes()[:100])
            raise error

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(SystemExit) as stopped:
        draw(monkeypatch, tmp_path, 3)
    assert stopped.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["page_000.png"]
    assert ("No space left" in capsys.readouterr().err) == (code == 2)


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_count_that_draws_nothing_is_an_error(count, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        draw(monkeypatch, tmp_path / "pages", count)
    assert stopped.value.code == 2
    assert not (tmp_path / "pages").exists()
