"""The package's metadata, the workflows of GitHub, and what starts from a release."""

import ast
import json
import re
import sys
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.terminal import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
BROUGHT = {"markupsafe": "jinja2", "starlette": "gradio"}
"""Imported packages by what always brings them."""


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by the normalized name of the package."""
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def imported(file: Path) -> set[str]:
    """The top-level modules of others that a file imports anywhere."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    top = {name.partition(".")[0] for name in modules}
    return top - set(sys.stdlib_module_names) - {"clipshift"}


def test_hard_dependencies_are_those_that_are_imported_and_nothing_else() -> None:
    hard = requirements(PROJECT["dependencies"])
    extras = requirements([*chain(*PROJECT["optional-dependencies"].values())])
    modules = {name for file in (ROOT / "clipshift").rglob("*.py") for name in imported(file)}
    packages = packages_distributions()
    by_module = {m: {canonicalize_name(p) for p in packages.get(m, [m])} for m in modules}
    used = set().union(*by_module.values())
    assert set(hard) - used == set()
    declared = set(hard) | set(extras)
    undeclared = {m for m, p in by_module.items() if not p & declared}
    assert {m for m in undeclared if BROUGHT.get(m) not in declared} == set()


def test_the_lowest_versions_are_those_that_we_declare() -> None:
    lines = (ROOT / ".ci/lowest.txt").read_text().splitlines()
    lowest = {n: next(iter(r.specifier)) for n, r in requirements(lines[1:]).items()}
    hard = requirements(PROJECT["dependencies"])
    assert set(hard) - set(lowest) == {"torch", "torchvision"}
    for name, exact in lowest.items():
        bound = next(s.version for s in hard[name].specifier if s.operator == ">=")
        assert Version(exact.version) == Version(bound), name


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_run_our_commands_with_pinned_actions_and_few_permissions(file: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(file.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name, job in workflow["jobs"].items():
        assert "permissions" not in job or name in ("publish", "announce", "propose")
        for step in job["steps"]:
            action, _, commit = step.get("uses", "run@" + "0" * 40).partition("@")
            assert re.fullmatch(r"[0-9a-f]{40}", commit), action
            assert set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) <= targets
            for script in re.findall(r"\.ci/\w+\b(?!\.)", step.get("run", "")):
                assert (ROOT / script).stat().st_mode & 0o100, script
        if matrix := job.get("strategy", {}).get("matrix"):
            assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
        needed = job.get("needs", [])
        needed = [needed] if isinstance(needed, str) else needed
        assert set(needed) <= set(workflow["jobs"])


def test_the_space_and_the_notebook_start_from_the_release() -> None:
    space = ROOT / "docs/space"
    _, front, _ = (space / "README.md").read_text("utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert (space / settings["app_file"]).is_file()
    gradio = requirements(PROJECT["optional-dependencies"]["demo"])["gradio"]
    assert gradio.specifier.contains(settings["sdk_version"])
    assert "clipshift[demo]" in (space / "requirements.txt").read_text().splitlines()
    notebook = json.loads((ROOT / "docs/notebook.ipynb").read_text("utf-8"))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "%pip install --quiet clipshift" in "".join(first["source"])
