"""Mutation testing: a seeded sample of mutants, by cosmic-ray's operators.

``make mutate COUNT=150 SEED=0`` copies the project to a temporary folder, and runs its tests once
to see which functions each of them enters. Then it changes one operator, number or keyword of one
file, runs the tests that enter that function, and puts the line back, COUNT times.
Mutants are drawn from all files, from each by its share, and printed as diffs where no test fails.
``FOLDER=measure`` mutates that folder alone.
"""

import ast
import difflib
import gc
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from scipy.stats import binomtest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "augment": "*",
    "measure": "*",
    "results": "*",
    "encode": "components gaze last_block patching rollout stages",
    "evaluate": "accuracy attack calibration decisions dissect elasticity encoded faithfulness "
    "floor gallery head_texts inside layers retrieval thresholds",
    "comparison": "budget pair parity",
    "train": "interpolation objectives tuning views",
}
"""The files that are mutated, by their folder below ``clipshift/``: those that compute numbers."""
LEFT_OUT = (
    "api cache check command data demo docs english faults fuzz huggingface library_models listing "
    "lite main models options own_models own_parts pages pretraining publishing readers release "
    "start tracking transformers_models trust"
)
"""Test modules that are not tried: of commands, pages, photos' files and libraries' models."""
TEST_SECONDS = 4
"""Processor time after which a test counts as too slow to be tried, without its fixtures."""
TRIED_SECONDS = 30
"""Processor time that a mutant's tests may take together, as measured when they were recorded."""
NEAR = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitAnd_BitOr BitOr_BitAnd Lt_LtE
    LtE_Lt Gt_GtE GtE_Gt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Delete_USub Delete_Invert Delete_Not
"""
"""The nearest wrong operator of each: + becomes −, not <<, which any call would notice."""
CPU_SECONDS = 300
"""Processor time after which a mutant counts as detected: several times that of the tests."""
HUNG_SECONDS = 1200
"""Time after which it counts as detected too: some mutants wait forever."""

Mutant = tuple[Path, str, int, int]
"""A file below the root, an operator of cosmic-ray, which of its matches there, from 0, and the
line."""
Function = tuple[str, int]
"""A file below the root, and the first line of a function."""
Recorded = tuple[set[Function], float]
"""The functions that a test enters, and its seconds of processor time."""


def words(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the places of annotations and texts, which tests need not detect."""
    left_out: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(source)):
        left_out += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        left_out += [node] if isinstance(node, ast.JoinedStr) else []
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in left_out if n]


def mutants(file: Path) -> list[Mutant]:
    """Return all mutants of a file."""
    source = (ROOT / file).read_text()
    nodes, skipped, mutants = list(ast_nodes(get_ast(source))), words(source), list[Mutant]()
    for name in sorted(operator_names()):
        far = "Operator_" in name and name.partition("Operator_")[2] not in NEAR.split()
        if far or get_operator(name).arguments():
            continue
        operator = get_operator(name)()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for index, start in enumerate(starts):
            if not any(low <= start < high for low, high in skipped):
                mutants.append((file, name, index, start[0]))
    return mutants


class Failure:
    """Keeps the first test that fails; a plugin for pytest."""

    result = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.result = self.result or report.nodeid


class Recorder:
    """Records which functions each test enters, and its time; a plugin for pytest.

    What fixtures of modules and sessions enter counts for all tests that use them, and caches are
    cleared before each test. Tests that start a command are skipped: its process is not seen.
    """

    def __init__(self, copy: Path, files: Sequence[Path]) -> None:
        self.copy, self.files = str(copy), {str(copy / file): str(file) for file in files}
        self.key, self.since = "", time.process_time()
        self.functions, self.seconds = defaultdict[str, set[Function]](set), Counter[str]()
        self.fixtures, self.passed = dict[str, list[str]](), dict[str, bool]()

    @property
    def result(self) -> tuple[dict[str, Recorded], list[str]]:
        """What each passing test entered and took, and the libraries' modules here."""
        tests = dict[str, Recorded]()
        for test in (test for test, passed in self.passed.items() if passed):
            keys = [test, *self.fixtures[test]]
            entered = set[Function]().union(*(self.functions[key] for key in keys))
            tests[test] = entered, sum(self.seconds[key] for key in keys)
        specs = [getattr(module, "__spec__", None) for module in sys.modules.values()]
        named = [spec for spec in specs if spec and not (spec.origin or "").startswith(self.copy)]
        return tests, [spec.name for spec in named]

    def enter(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call, for ``sys.settrace``."""
        code = frame.f_code
        if code.co_filename in self.files:
            self.functions[self.key].add((self.files[code.co_filename], code.co_firstlineno))

    @contextmanager
    def recording(self, key: str) -> Iterator[None]:
        """Record functions and time of a test or fixture."""
        outer = self.key
        self.switch(key)
        try:
            yield
        finally:
            self.switch(outer)

    def switch(self, key: str) -> None:
        """Count the time since the last switch, and go on with another test or fixture."""
        sys.settrace(self.enter)  # again: Python ends it where `enter` itself is interrupted
        now = time.process_time()
        self.seconds[self.key] += now - self.since
        self.key, self.since = key, now

    def pytest_collection_finish(self) -> None:
        from support.terminal import Terminal

        Terminal.__init__ = lambda self, env=None: pytest.skip("starts a command")
        threading.settrace(self.enter)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        for module in list(sys.modules.values()):
            if (getattr(module, "__file__", None) or "").startswith(self.copy):
                for value in vars(module).values():
                    getattr(value, "cache_clear", int)()
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        self.fixtures[item.nodeid] = [str(one) for of in fixtures for one in of]
        with self.recording(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        signal.signal(signal.SIGPROF, lambda *_: pytest.skip("too slow"))
        signal.setitimer(signal.ITIMER_PROF, TEST_SECONDS)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        with self.recording(self.key if fixturedef.scope == "function" else str(fixturedef)):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed[report.nodeid] = self.passed.get(report.nodeid, True) and report.passed


def run_pytest(copy: Path, tests: Sequence[str], plugin: Any, bounded: bool = True) -> Any:
    """Run tests in a forked process.

    Args:
        copy: The project's copy.
        tests: What pytest takes as tests.
        plugin: For pytest.
        bounded: Whether it is killed after `CPU_SECONDS` or `HUNG_SECONDS`.

    Returns:
        The plugin's ``result``; None where the process, or pytest itself, failed.
    """
    file = copy.parent / "result"
    file.unlink(missing_ok=True)

    def run() -> None:
        if bounded:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            sys.dont_write_bytecode = True  # a mutant may be as long and as old as the last
        os.chdir(copy)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        options = ["-q", "-p", "no:cacheprovider", *(["-x"] if bounded else [])]
        code = pytest.main([*options, *tests], [plugin])
        if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            file.write_bytes(pickle.dumps(plugin.result))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(HUNG_SECONDS if bounded else None)
    process.kill()
    process.join()
    return pickle.loads(file.read_bytes()) if file.exists() else None


def chosen_tests(recorded: dict[str, Recorded], file: Path, line: int) -> list[str]:
    """Return the tests that enter the function around a line, by module, the quickest first.

    Of a line outside functions, which is run when the file is imported: those that enter any
    function of the file.
    """
    functions = [
        (min([node.lineno, *(of.lineno for of in node.decorator_list)]), node.end_lineno or 0)
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    around = max((start for start, end in functions if start <= line <= end), default=None)
    chosen, total = dict[str, float](), 0.0
    for test, (entered, seconds) in sorted(recorded.items(), key=lambda of: of[1][1]):
        lines = {start for name, start in entered if name == str(file)}
        if lines if around is None else around in lines:
            total += seconds
            if total <= TRIED_SECONDS:
                chosen[test] = seconds
    modules = Counter[str]()
    for test, seconds in chosen.items():
        modules[test.partition("::")[0]] += seconds
    return sorted(chosen, key=lambda test: modules[test.partition("::")[0]])


def first_failure(copy: Path, file: Path, code: str, tests: Sequence[str]) -> str | None:
    """Run tests with this code in a file.

    Returns:
        The first test that fails; "" where all pass; None where the file cannot be imported, or the
        process is killed.
    """
    shutil.copy2(copy / file, copy.parent / "original")
    (copy / file).write_text(code)
    failure = run_pytest(copy, tests, Failure())
    shutil.copy2(copy.parent / "original", copy / file)
    return failure


def main(count: int = 150, seed: int = 0, folder: str = "") -> None:
    """Draw mutants, try them and print the table."""
    files = [
        file.relative_to(ROOT)
        for room, names in FILES.items()
        for name in names.split()
        for file in sorted((ROOT / "clipshift" / room).glob(f"{name}.py"))
        if folder in room
    ]
    rng = random.Random(seed)
    every = [mutant for batch in map(mutants, files) for mutant in rng.sample(batch, len(batch))]
    sample = [every[int((n + rng.random()) * len(every) / count)] for n in range(count)]
    rng.shuffle(sample)  # so that those tried before an early stop are of all files
    modules = sorted(f"tests/{file.name}" for file in (ROOT / "tests").glob("test_*.py"))
    modules = [of for of in modules if of[len("tests/test_") : -len(".py")] not in LEFT_OUT.split()]
    tried, killed, trusted = Counter[str](), Counter[str](), set[str]()
    with tempfile.TemporaryDirectory() as made_at:
        copy = Path(made_at).resolve() / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "outputs"))
        sys.path[0] = str(copy)  # not benchmarks/, where a library would find our coverage.py
        tests = [*map(str, files), *modules]
        recorded, libraries = run_pytest(copy, tests, Recorder(copy, files), bounded=False)
        print(f"{len(recorded)} tests are recorded\n", flush=True)
        for name in libraries:  # once, before a process is forked for each mutant
            with suppress(Exception):
                import_module(name)
        gc.collect()
        gc.freeze()
        for file, name, index, line in tqdm(sample):
            source = (copy / file).read_text()
            code = mutate_code(source, get_operator(name)(), index)
            while tests := chosen_tests(recorded, file, line):
                failed = first_failure(copy, file, code, tests)
                if failed == "" or failed in trusted:
                    break
                again = tests if failed is None else [failed]
                if first_failure(copy, file, source, again) == "":  # it failed by the mutant
                    trusted |= {failed} - {None}
                    break
                assert failed, f"tests of {file} fail without a mutant"
                del recorded[failed]  # it fails alone
            tried[file.parent.name] += 1
            if tests and failed != "":
                killed[file.parent.name] += 1
                continue
            both = source.splitlines(), code.splitlines()
            diff = difflib.unified_diff(*both, f"a/{file}", f"b/{file}", n=1, lineterm="")
            print(*diff, f"(tests that pass: {len(tests)})", "", sep="\n", flush=True)
    print(f"{len(every)} mutants, {count} drawn with seed {seed}\n")
    print("| folder | killed | share | 95 % interval |\n| --- | --- | --- | --- |")
    for name in [*tried, "all"]:
        k, n = (c.total() if name == "all" else c[name] for c in (killed, tried))
        low, high = binomtest(k, n).proportion_ci(method="wilson")
        print(f"| `{name}` | {k} of {n} | {k / n:.0%} | {low:.0%} to {high:.0%} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
