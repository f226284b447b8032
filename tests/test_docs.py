"""What README and docs tell people to type is what clipshift takes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from skimage import data as photographs

from clipshift.cli.command import compose_config, quoted
from clipshift.cli.config import MEASURED, validate
from clipshift.cli.main import COMMANDS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAGS = ("--help", "--cfg", "job", "-m", "--config-dir", "--version")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's shell blocks that call clipshift, as a shell splits them."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    told = []
    for line in words:
        if line[:2] in (["python", "evaluate.py"], ["python", "train.py"]):
            line = ["clipshift", Path(line[1]).stem, *line[2:]]
        if line[:1] == ["clipshift"]:
            told.append(line[1:])
    return told


TOLD = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(
    ("page", "line"), TOLD, ids=[f"{page.name}: {' '.join(line)}" for page, line in TOLD]
)
def test_a_command_of_the_docs_has_options_that_are_there(page: Path, line: list[str]) -> None:
    name, *arguments = line
    assert name in (*COMMANDS, "--version", "-sc")
    if name == "check":
        name, arguments = "evaluate", ["experiment=check", *arguments]
    if name not in ("evaluate", "train") or "--config-dir" in " ".join(arguments):
        return
    sweep = "-m" in arguments
    for argument in arguments:
        if argument in FLAGS:
            continue
        assert "=" in argument, f"{argument} is no option"
    overrides = [quoted(a) for a in arguments if a not in FLAGS]
    # of a sweep its first job; what chooses Hydra's own parts is not in the configuration itself
    overrides = [re.sub(r"^([^=\[']+=[^,\[']*),.*", r"\1", o) if sweep else o for o in overrides]
    overrides = [o for o in overrides if not o.startswith("hydra")]
    if name == "train":
        assert "stage" in compose_config("train", overrides)
    else:
        validate(compose_config("evaluate", ["logger=none", *overrides]), MEASURED)


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    folder = tmp_path / "PHOTOS"
    folder.mkdir()
    for name in ("chelsea.png", "coffee.png"):
        source = Path(photographs.__file__).parent / name
        (folder / name).write_bytes(source.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my_run" / "report.html").is_file()


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("<svg" in output.get("data", {}).get("text/html", "") for output in shown)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "measure_shift" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
