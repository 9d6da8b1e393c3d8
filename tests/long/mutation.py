"""Breaks the program in one place at a time, drawn by chance, and asks whether a test notices.

python tests/long/mutation.py --mutants 150 --seed 0

The suite runs once to learn which tests reach which lines; each mutant then meets those tests, the fast ones
first, until one fails. What survives meets the slow ones, and those that run the program in other processes.
Needs pytest-cov.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("common", "images", "tf1", "training", "upscaling")
MOST_SECONDS = 150  # of a round of tests for a mutant; what hangs counts as noticed
IN_PROCESSES = ("tests/test_end_to_end.py", "tests/training/test_distribution.py")  # whose reach is not known
COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*"}


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    change: str
    source: str


def mutants_of(path: Path) -> list[Mutant]:
    """Every change of one module that the rules allow."""
    source = path.read_text()
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()
    found = []

    def span(node) -> tuple[int, int]:
        first, last = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )
        return first, last

    def replace(node, begin: int, end: int, text: str) -> None:
        changed = (data[:begin] + text.encode() + data[end:]).decode()
        was = " ".join(data[begin:end].decode().split())
        module = path.relative_to(ROOT).as_posix()
        found.append(Mutant(module, node.lineno, f"{was[:50]} -> {text}", changed))

    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            replace(
                node, span(node.left)[1], span(node.comparators[0])[0], f" {COMPARISONS[type(node.ops[0])]} "
            )
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            replace(node, span(node.left)[1], span(node.right)[0], f" {OPERATORS[type(node.op)]} ")
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            replace(node, span(node.values[0])[1], span(node.values[1])[0], word)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            replace(node, *span(node), f"({ast.get_source_segment(source, node.operand)})")
        elif isinstance(node, ast.If | ast.IfExp):
            replace(node, *span(node.test), f"(not ({ast.get_source_segment(source, node.test)}))")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            replace(node, *span(node), str(not node.value))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            replace(node, *span(node), f"{node.value + 1}")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and id(node.value) in texts:
            replace(node, *span(node), "pass")
        elif (
            isinstance(node, ast.Return)
            and node.value is not None
            and not isinstance(node.value, ast.Constant)
        ):
            replace(node, *span(node), "return None")
    return [mutant for mutant in found if _compiles(mutant.source)]  # brackets may be cut in half


def _compiles(source: str) -> bool:
    try:
        ast.parse(source)
        return True
    except SyntaxError:
        return False


def learn(folder: Path) -> tuple[dict, dict]:
    """({(module, line): tests that reach it}, {test: seconds}), by one run of the suite."""
    import coverage

    report = folder / "junit.xml"
    options = [
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--cov=.",
        "--cov-context=test",
        "--cov-report=",
        f"--junitxml={report}",
    ]
    ignored = ["--ignore=tests/test_long.py", "--ignore=tests/test_end_to_end.py"]
    # a shared graph would be counted as the first test's alone
    environment = {**os.environ, "GRAPH_OF_ITS_OWN": "1"}
    subprocess.run([sys.executable, "-m", "pytest", *options, *ignored], cwd=folder, env=environment)
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    reached = defaultdict(set)
    for file in data.measured_files():
        module = Path(file).relative_to(folder).as_posix()
        for line, contexts in data.contexts_by_lineno(file).items():
            reached[module, line] |= {context.split("|")[0] for context in contexts if context}
    seconds = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname").replace(".", "/") + ".py"
        test = f"{file}::{case.get('name')}"
        seconds[test] = float(case.get("time"))
        if case.find("failure") is not None or case.find("error") is not None:
            print(f"{test} fails without a change and is left out", flush=True)
            for tests in reached.values():
                tests.discard(test)
    return reached, seconds


def rounds_for(mutant: Mutant, reached: dict, seconds: dict) -> list[list[str]]:
    """The tests that reach its line, or its module where it is reached by importing; fast ones first."""
    tests = reached.get((mutant.module, mutant.line)) or set().union(
        *(names for (module, _), names in reached.items() if module == mutant.module)
    )
    rounds, total = [[]], 0.0
    for test in sorted(tests, key=lambda name: seconds.get(name, 1.0)):
        total += seconds.get(test, 1.0)
        if total > MOST_SECONDS / 3:
            rounds.append([])
            total = seconds.get(test, 1.0)
        rounds[-1].append(test)
    return [*rounds, *([test] for test in IN_PROCESSES)]


def survives(mutant: Mutant, tests: list[str], folder: Path) -> bool:
    """Whether all the tests pass with the change made in a copy of the program."""
    path = folder / mutant.module
    before = path.read_text()
    path.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=MOST_SECONDS)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="srgan-mutation-"))
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "samples")
    copies: SimpleQueue = SimpleQueue()
    for number in range(args.workers):
        shutil.copytree(ROOT, work / str(number), ignore=skipped)
        copies.put(work / str(number))
    reached, seconds = learn(work / "0")

    rng = random.Random(args.seed)
    paths = [path for path in ROOT.glob("*.py") if path.name != "config.py"]
    paths += [path for wing in WINGS for path in (ROOT / wing).glob("*.py")]
    by_module = {path: mutants_of(path) for path in sorted(paths)}
    # spread over the modules: each gives in turn, a large one as often as a small one
    sample = []
    pools = [rng.sample(pool, len(pool)) for pool in by_module.values() if pool]
    while len(sample) < args.mutants and pools:
        pools = [pool for pool in pools if pool]
        sample += [pool.pop() for pool in pools][: args.mutants - len(sample)]

    def judge(mutant: Mutant) -> bool:
        folder = copies.get()
        try:
            rounds = rounds_for(mutant, reached, seconds)
            return all(survives(mutant, tests, folder) for tests in rounds if tests)
        finally:
            copies.put(folder)

    survivors = 0
    with ThreadPoolExecutor(args.workers) as pool:
        for number, (mutant, survived) in enumerate(zip(sample, pool.map(judge, sample)), start=1):
            survivors += survived
            word = "SURVIVES" if survived else "noticed"
            print(f"{number:4} {word:8} {mutant.module}:{mutant.line} {mutant.change}", flush=True)
    noticed = len(sample) - survivors
    print(f"{noticed} of {len(sample)} mutants noticed, {100 * noticed / len(sample):.1f} %")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
