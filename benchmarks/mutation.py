"""Mutation testing: a seeded sample of mutants, by cosmic-ray's operators.

``make mutate COUNT=150 SEED=0`` copies the project to a temporary folder, changes one operator,
number or keyword of one file there, runs its tests (`TESTS`) and the file's doctests, and
puts the line back, COUNT times. Mutants are drawn from all files, from each by its share, and
printed as diffs where no test fails. ``FOLDER=measure`` mutates that folder alone.
"""

import ast
import difflib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from scipy.stats import binomtest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    *(f"{folder}/*.py" for folder in ("augment", "measure", "results")),
    *(f"train/{name}.py" for name in ("interpolation", "objectives", "tuning", "views")),
]
"""The files that are mutated, below ``clipshift/``."""
SLOW = (
    "60_photos or follow_one or falls_from or leaks or contradict or papers_does_not or batch_or "
    "or covered or columns_of_the_table or sweep or job or command or views_are_refused or no_run "
    "or is_exported or two_devices or vit_b32 or lowers or started_again or training_goes_on or "
    "no_numbers or among_which or writes_tables or shows_stored or paper_experiment or "
    "two_processes or writes_everything or saved_tensors or matched_run or nothing_of_an_earlier"
)
"""Tests that take too long for one mutant, as an expression for pytest's ``-k``."""
TESTS = {
    "augment": "augment authors measure severity",
    "authors": "authors",
    "matching": "severity authors",
    "stored": "corruptions",
    "transforms": "transforms",
    "measure": "measure zero_shot results own_measures",
    "embeddings": "inside",
    "functional": "measure zero_shot inside results evaluation",
    "per_photo": "own_measures",
    "results": "intervals results comparison",
    "corruptions": "corruptions",
    "measured": "results evaluation",
    "records": "results evaluation",
    "table": "results evaluation",
    "train": "finetuning",
}
"""The test modules of a file or of its folder."""
NEAR = """
    Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitAnd_BitOr BitOr_BitAnd Lt_LtE
    LtE_Lt Gt_GtE GtE_Gt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Delete_USub Delete_Invert Delete_Not
"""
"""The nearest wrong operator of each: + becomes −, not <<, which any call would notice."""
HEAVY = [
    "albumentations", "hydra.utils", "hypothesis", "kornia.geometry", "open_clip",
    "pyarrow.parquet", "pytorch_lightning", "scipy.stats", "skimage.color",
    "torchmetrics.functional.image", "torchvision", "wandb",
]  # fmt: skip
"""Imported once, before a process is forked for each mutant."""
CPU_SECONDS = 300
"""Processor time after which a mutant counts as detected: several times that of the tests."""
HUNG_SECONDS = 1200
"""Time after which it counts as detected too: some mutants wait forever."""

Mutant = tuple[Path, str, int]
"""A file below the root, an operator of cosmic-ray, and which of its matches there, from 0."""


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
                mutants.append((file, name, index))
    return mutants


def run_tests(copy: Path, file: Path) -> None:
    """Run the tests of a file's folder and its doctests, and exit with pytest's code."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    os.chdir(copy)
    sys.path[0] = str(copy)
    sys.dont_write_bytecode = True  # a mutant may be as long and as old as the last
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    modules = TESTS.get(file.stem) or TESTS[file.parent.name]
    tests = [f"tests/test_{name}.py" for name in modules.split()]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-k", f"not ({SLOW})"]
    os._exit(pytest.main([str(file), *tests, *options]))


def survives(copy: Path, file: Path, code: str) -> bool:
    """Whether all tests pass, within the time, with this code in a file."""
    original = (copy / file).read_text()
    (copy / file).write_text(code)
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, file))
    process.start()
    process.join(HUNG_SECONDS)
    process.kill()
    process.join()
    (copy / file).write_text(original)
    return process.exitcode == 0


def main(count: int = 150, seed: int = 0, folder: str = "") -> None:
    """Draw mutants, try them and print the table."""
    matches = [f for glob in FILES for f in sorted((ROOT / "clipshift").glob(glob))]
    files = [f.relative_to(ROOT) for f in matches if folder in f.parent.name]
    rng = random.Random(seed)
    every = [mutant for batch in map(mutants, files) for mutant in rng.sample(batch, len(batch))]
    sample = [every[int((n + rng.random()) * len(every) / count)] for n in range(count)]
    rng.shuffle(sample)  # so that those tried before an early stop are of all files
    for name in HEAVY:
        import_module(name)
    tried, killed = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as made_at:
        copy = Path(made_at) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "outputs"))
        for file in {TESTS.get(f.stem, f.parent): f for f, *_ in sample}.values():
            assert survives(copy, file, (copy / file).read_text()), f"tests of {file} fail"
        for file, name, index in tqdm(sample):
            source = (copy / file).read_text()
            code = mutate_code(source, get_operator(name)(), index)
            tried[file.parent.name] += 1
            if not survives(copy, file, code):
                killed[file.parent.name] += 1
                continue
            both = source.splitlines(), code.splitlines()
            diff = difflib.unified_diff(*both, f"a/{file}", f"b/{file}", n=1, lineterm="")
            print(*diff, "", sep="\n", flush=True)
    print(f"{len(every)} mutants, {count} drawn with seed {seed}\n")
    print("| folder | killed | share | 95 % interval |\n| --- | --- | --- | --- |")
    for name in [*tried, "all"]:
        k, n = (c.total() if name == "all" else c[name] for c in (killed, tried))
        low, high = binomtest(k, n).proportion_ci(method="wilson")
        print(f"| `{name}` | {k} of {n} | {k / n:.0%} | {low:.0%} to {high:.0%} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
