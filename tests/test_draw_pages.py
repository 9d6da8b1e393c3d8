"""Drawn pages to train with: the same each time, flat with clear edges, never written over what is there."""

import random
import sys

import draw_pages
import numpy as np
import pytest
from PIL import Image

NUMBERS = range(6)


@pytest.fixture(scope="module")
def pages():
    return [np.asarray(draw_pages.draw_page(number)).astype(int) for number in NUMBERS]


def test_a_number_is_always_the_same_page_and_no_other_number_is(pages):
    assert np.array_equal(np.asarray(draw_pages.draw_page(3)), pages[3])
    assert {page.shape for page in pages} == {(480, 480, 3)}
    assert len({page.tobytes() for page in pages}) == len(pages)


def test_pages_are_flat_but_for_clear_edges(pages):
    for page in pages:
        steps = np.abs(np.diff(page, axis=1)).max(axis=2)
        assert (steps <= 1).mean() > 0.6  # a ramp is flat too
        assert (steps > 70).mean() > 0.005


def test_what_is_drawn_can_be_read_on_its_ground():
    rng = random.Random(0)
    for _ in range(200):
        ground = draw_pages.any_colour(rng)
        colour = draw_pages.other_colour(rng, ground)
        assert max(abs(a - b) for a, b in zip(ground, colour)) > 70


def draw(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["draw_pages.py", *map(str, arguments)])
    draw_pages.main()


def test_a_folder_is_made_and_nothing_in_it_is_written_over(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a" / "pages"
    draw(monkeypatch, folder, 1)
    with Image.open(folder / "page_000.png") as page:
        assert page.tobytes() == draw_pages.draw_page(0).tobytes()
    (folder / "page_000.png").write_bytes(b"mine")
    with pytest.raises(SystemExit) as stopped:
        draw(monkeypatch, folder, 2)
    assert stopped.value.code == 2
    assert "page_000.png exists" in capsys.readouterr().err
    assert (folder / "page_000.png").read_bytes() == b"mine"


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_count_that_draws_nothing_is_an_error(count, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        draw(monkeypatch, tmp_path / "pages", count)
    assert stopped.value.code == 2
    assert not (tmp_path / "pages").exists()
