"""Imports go one way only, from folder to folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOT_MODULES = {"main.py", "model.py", "vgg19.py", "utils.py", "config.py"}
LOWEST = {"common", "config"}
# Folders and modules of the root that each may import
MAY_IMPORT = {
    "main": LOWEST | {"training", "upscaling", "tf1"},
    "training": LOWEST | {"images", "tf1", "model", "vgg19"},
    "upscaling": LOWEST | {"images", "tf1", "model"},
    "model": LOWEST | {"tf1"},
    "vgg19": LOWEST | {"tf1"},
    "utils": LOWEST | {"images"},
    "tf1": {"common"},
    "images": {"common"},
    "common": {"config"},
    "config": set(),
}
MAY_IMPORT_CONFIG = {"main", "model", "common.settings"}  # others are given it, or plain values


def modules() -> dict[str, Path]:
    """{'training.graph': its file} of the program."""
    files = [path for folder in (".", *MAY_IMPORT) for path in (ROOT / folder).glob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@pytest.mark.parametrize("name", modules())
def test_imports_are_those_that_the_design_allows(name):
    folder = name.partition(".")[0]
    imported = {found.partition(".")[0] for found in imported_names(modules()[name])}
    assert imported & MAY_IMPORT.keys() <= MAY_IMPORT[folder] | {folder}
    if "config" in imported:
        assert name in MAY_IMPORT_CONFIG


def test_modules_are_at_most_about_300_lines():
    lines = {name: path.read_text().count("\n") for name, path in modules().items()}
    assert [name for name in lines if lines[name] > 310] == []


def test_the_root_holds_the_modules_of_the_note():
    assert {path.name for path in ROOT.glob("*.py")} == ROOT_MODULES


def test_importing_the_program_changes_no_signal_handler_and_help_answers_without_tensorflow():
    code = (
        "import signal, sys, main\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "try: main.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'tensorflow', 'tensorlayer', 'matplotlib', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--mode=evaluate" in done.stdout
