"""Short forms of the long tests, each in its own process: `make crash-test` and `make fuzz` do more."""

import subprocess
import sys
from pathlib import Path

import pytest

LONG = Path(__file__).parent / "long"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("crash.py --kills 5 --faults 2 --without-plots --seed 1", ["5 kills in", "2 failed writes"]),
        ("fuzz.py --files 400 --seed 1", ["400 files"]),
    ],
)
def test_short_form(arguments, words):
    script, *options = arguments.split()
    command = [sys.executable, str(LONG / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in words)
