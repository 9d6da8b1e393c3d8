"""The import arrows of the program go one way only."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "bicubic": set(),
    "checkpointing": {"config", "schedule", "utils"},
    "config": set(),
    "convolutions": {"runtime"},
    "dataset": {"utils"},
    "deep_formats": {"metadata", "utils"},
    "evaluate": {"bicubic", "checkpointing", "dataset", "metrics", "model", "pictures", "upscale", "utils"},
    "formats": {"deep_formats", "metadata", "utils"},
    "graph": {"bicubic", "losses", "model", "schedule", "vgg19"},
    "layers": {"convolutions"},
    "losses": {"layers"},
    "main": {"config", "evaluate", "train", "utils"},
    "metadata": set(),
    "metrics": set(),
    "model": {"layers"},
    "pictures": {"formats", "utils"},
    "runtime": set(),
    "schedule": set(),
    "training_log": set(),
    "train": {
        "bicubic",
        "checkpointing",
        "config",
        "dataset",
        "graph",
        "metrics",
        "model",
        "runtime",
        "schedule",
        "training_log",
        "utils",
        "vgg19",
    },
    "upscale": {"checkpointing", "layers", "model", "runtime", "utils"},
    "utils": {"bicubic"},
    "vgg19": {"layers", "utils"},
}


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_modules_import_what_the_design_allows():
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert modules == set(MAY_IMPORT)
    found = {name: imported_names(ROOT / f"{name}.py") & modules for name in modules}
    assert {name: found[name] - MAY_IMPORT[name] for name in modules} == {name: set() for name in modules}


def test_help_answers_without_tensorflow():
    code = (
        "import sys, main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'tensorflow', 'tensorlayer', 'matplotlib', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--mode=evaluate" in done.stdout
