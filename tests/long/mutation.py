"""Breaks the program in one place at a time, chosen at random, and counts how often a test fails.

python tests/long/mutation.py --mutants 150 --seed 0

The suite runs once to learn which tests reach which lines; each mutant then meets those, fast ones first,
until one fails; then those that run the program in other processes. Needs pytest-cov.
"""

from __future__ import annotations

import argparse
import ast
import copy
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
FOLDERS = ("common", "images", "tf1", "training", "upscaling")
MAX_SECONDS = 300  # of the tests of a mutant, beyond three times their own; one that hangs is noticed
IN_PROCESSES = ("tests/test_end_to_end.py", "tests/training/test_distribution.py")  # their lines are not seen
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    change: str
    source: str


def changed(node: ast.AST) -> ast.AST | None:
    """A broken version of a node; None where no rule applies."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            new.ops = [COMPARISONS[type(operator)]()]
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            new.op = OPERATORS[type(operator)]()
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not()):
            return new.operand
        case ast.If() | ast.IfExp():
            new.test = ast.UnaryOp(ast.Not(), new.test)
        case ast.Constant(value=bool()):
            new.value = not new.value
        case ast.Constant(value=int() | float()):
            new.value += 1
        case ast.Expr(value=ast.Call()):
            return ast.Pass()
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            new.value = ast.Constant(None)
        case _:
            return None
    return new


def mutants_of(path: Path) -> list[Mutant]:
    """Every change of one module that the rules allow."""
    tree, module, found = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix(), []
    for parent in list(ast.walk(tree)):
        for field, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            for i, node in enumerate(nodes):
                if isinstance(parent, ast.JoinedStr) or not (new := changed(node)):
                    continue
                new = ast.fix_missing_locations(ast.copy_location(new, node))
                setattr(parent, field, [*nodes[:i], new, *nodes[i + 1 :]] if value is nodes else new)
                first = [ast.unparse(n).splitlines()[0][:50] for n in (node, new)]
                found.append(Mutant(module, node.lineno, " -> ".join(first), ast.unparse(tree)))
                setattr(parent, field, value)
    return found


def learn(folder: Path) -> tuple[dict, dict]:
    """({(module, line): tests that reach it}, {test: seconds}), by one run of the suite."""
    import coverage

    report = folder / "junit.xml"
    options = "-q -n 2 --dist loadfile --cov=. --cov-context=test --cov-report= --ignore=tests/test_long.py"
    command = [sys.executable, "-m", "pytest", *options.split(), f"--ignore={IN_PROCESSES[0]}"]
    # a shared graph would be counted as the first test's alone
    environment = {**os.environ, "GRAPH_OF_ITS_OWN": "1"}
    subprocess.run([*command, f"--junitxml={report}"], cwd=folder, env=environment)
    seconds, failed = {}, set()
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        seconds[test] = float(case.get("time"))
        if case.find("failure") is not None or case.find("error") is not None:
            print(f"{test} fails without a change and is left out", flush=True)
            failed.add(test)
    of_file = defaultdict(set)
    for test in seconds:
        of_file[test.partition("::")[0]].add(test)
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    reached = defaultdict(set)
    for file in data.measured_files():
        module = Path(file).relative_to(folder).as_posix()
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in filter(None, contexts):
                test, _, phase = context.partition("|")
                # what a test sets up may serve all tests of its file
                served = of_file[test.partition("::")[0]] if phase == "setup" else {test}
                reached[module, line] |= served - failed
    return reached, seconds


def tests_of(mutant: Mutant, reached: dict, seconds: dict) -> list[str]:
    """The tests that reach its line, or its module where it is reached by importing; fast ones first."""
    tests = reached.get((mutant.module, mutant.line)) or set().union(
        *(names for (module, _), names in reached.items() if module == mutant.module)
    )
    return [*sorted(tests, key=lambda test: seconds.get(test, 1.0)), *IN_PROCESSES]


def survives(mutant: Mutant, tests: list[str], allowed: float, folder: Path) -> bool:
    """Whether all the tests pass with the change made in a copy of the program."""
    path = folder / mutant.module
    before = path.read_text()
    path.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=allowed).returncode == 0
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
    paths += [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    # each module gives one in turn, a large one as often as a small one
    pools = [rng.sample(pool, len(pool)) for pool in map(mutants_of, sorted(paths))]
    sample = []
    while len(sample) < args.mutants and (pools := [pool for pool in pools if pool]):
        sample += [pool.pop() for pool in pools][: args.mutants - len(sample)]

    def judge(mutant: Mutant) -> bool:
        folder = copies.get()
        try:
            tests = tests_of(mutant, reached, seconds)
            allowed = MAX_SECONDS + 3 * sum(seconds.get(test, 0.0) for test in tests)
            return survives(mutant, tests, allowed, folder)
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
