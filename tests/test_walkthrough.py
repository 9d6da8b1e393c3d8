"""docs/walkthrough.md and docs/theory.md run as printed, the table is true, and named files exist."""

import doctest
import json
import re
from pathlib import Path

import make_figures
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model import SRGAN_g
from tf1 import layers
from tf1.layers import tl
from utils import crop_sub_imgs_fn, downsample_fn

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNING = ["docs/walkthrough.md", "docs/theory.md"]
# Documents name files of a run, of a user and of other programs too; those of these kinds are ours.
OURS = (".py", ".md", ".toml")


@pytest.mark.parametrize("page", RUNNING)
def test_snippets_run_as_printed_and_print_what_is_printed(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    tf.compat.v1.reset_default_graph()
    failed, tried = doctest.testfile(str(ROOT / page), module_relative=False, optionflags=doctest.ELLIPSIS)
    tf.compat.v1.reset_default_graph()
    assert failed == 0, capsys.readouterr().out
    assert tried > 10


def rows() -> list[tuple[str, str, str]]:
    """(the note's code, status, what is there today) of the table at the end of the walkthrough."""
    table = (ROOT / "docs/walkthrough.md").read_text(encoding="utf-8").split("## TensorFlow 1 to 2")[1]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(lines) == 34
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def codes(cell: str) -> list[str]:
    """The expressions of a cell, without the files that it names."""
    return [code for code in re.findall("`([^`]+)`", cell) if "(" in code]


@pytest.fixture
def names(graph):
    """What the table's expressions may use."""
    photo = np.zeros((400, 400, 3), np.uint8)
    names = {name: getattr(layers, name) for name in layers.__dict__ if name[0].isupper()}
    names |= {"tf": tf, "tl": tl, "image": photo}
    names |= {"crop_sub_imgs_fn": crop_sub_imgs_fn, "downsample_fn": downsample_fn}
    names |= {"x": tf.zeros([2, 4, 4, 4]), "w": tf.zeros([3, 3, 4, 2])}
    return names | {"v": tf.compat.v1.get_variable("v", initializer=2.0)}


def runs(code: str, names: dict) -> bool:
    try:
        eval(code, dict(names))
    except (AttributeError, TypeError, NotImplementedError, tl.layers.deprecated.NonExistingLayerError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # old names say that they are old
@pytest.mark.parametrize(("old", "status", "new"), rows())
def test_each_row_of_the_table_is_true_of_the_installed_version(old, status, new, names):
    assert codes(old)
    for code in codes(old):
        in_compat = code.replace("tf.", "tf.compat.v1.")
        if status.startswith("as written"):
            assert runs(code, names)
        elif status == "compat":
            assert not runs(code, names)
            assert runs(in_compat, names)
        else:
            assert status.startswith("gone")
            assert not runs(code, names)
            assert not code.startswith("tf.") or not runs(in_compat, names)
    with tf.compat.v1.variable_scope("today"):  # the old code may have made variables of the same names
        for code in codes(new):
            eval(code, dict(names))


def anchors(document: Path) -> set[str]:
    """Where links into a document may point, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere_and_every_file_of_ours_that_is_named_exists(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./-]+)`", text):
        if name.endswith(OURS):
            assert any(any(ROOT.glob(folder + name)) for folder in ("", "*/", "tests/*/")), name
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_drawings_take_their_skip_connections_from_the_graph(graph):
    net = SRGAN_g(tf.zeros([1, 8, 8, 3]), is_train=True, num_blocks=2, num_filters=4)
    found = make_figures.sources(net)
    assert found["n64s1/c"] == []
    assert found["n64s1/b1/0"] == ["n64s1/c1/0"]
    assert sorted(found["b_residual_add/1"]) == ["b_residual_add/0", "n64s1/b2/1"]
    assert sorted(found["add3"]) == ["n64s1/b/m", "n64s1/c"]


def test_loss_curves_are_drawn_from_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(make_figures, "FOLDER", tmp_path)
    pretrain = {"phase": "pretrain", "step": 10, "mse_loss": 0.5}
    losses = {"mse_loss": 0.4, "vgg_loss": 0.1, "g_gan_loss": 0.001, "d_loss": 1.0}
    lines = [pretrain, {"phase": "adversarial", "step": 20, **losses}]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_figures.draw_losses(make_figures.read_log(tmp_path / "log"))
    assert np.asarray(Image.open(tmp_path / "loss_curves.png").convert("L")).min() < 100
