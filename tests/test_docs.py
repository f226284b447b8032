"""The commands of README and docs work as written."""

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import shared_terminal
from support.hub import Hub
from support.placeholders import Placeholders
from support.terminal import ROOT, Terminal

from clipshift.cli.arguments import quoted
from clipshift.cli.command import compose_config
from clipshift.cli.config import validate
from clipshift.cli.main import COMMANDS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHECKOUT = ["README.md", "LICENSE", "Makefile", "pyproject.toml", "evaluate.py", "train.py"]
CHECKOUT += ["clipshift", "conf"]
FLAGS = ("--help", "--cfg", "job", "-m", "--config-dir", "--version")
FEWER = {
    "dissect": "aug=[noise] patching.photos=1 faithfulness.photos=1",
    "robustify": "data.val.sample=2 data.batch_size=4",
    "robustify_lite": "data.train.large.skip_sample=8 data.photos=8 data.val.sample=2 "
    "data.batch_size=4 trainer.max_epochs=1",
    "robustify_tiny": "data.val.sample=4 data.batch_size=8",
    "robustify_vit_b32": "data.val.sample=2 data.batch_size=4",
    "pretrain_tiny": "data.batch_size=8 teacher.batch_size=8 teacher.steps=1 "
    "trainer.max_epochs=2 adaptations.mild.trainer.max_epochs=1 "
    "adaptations.strong.trainer.max_epochs=1",
    "make_lite": "optimization.steps=2",
}
"""By experiment: options that make a command fast, with few photos."""
QUICK = (
    "clipshift models",
    "clipshift evaluate --help",
    "clipshift evaluate data=folder data.root=PHOTOS/cat/2.png",
)
"""Commands that every test run includes; the others are marked as slow."""
NOT_RUN = {
    "it runs this test": ["make test"],
    "it serves a page until it is stopped; see test_demo.py": [
        "clipshift demo",
        "clipshift demo model=lite beside=outputs/robustify_lite/model",
        "clipshift demo model=vit_b32_openai beside=lite",
    ],
    "it downloads ten gigabytes of weights; see test_check.py": [
        "clipshift check check.data.imagenet1k.root=IMAGENET_VAL check.download=true",
        "clipshift check 'check.shards=FOLDER/wds_{}' check.download=true data.batch_size=256",
    ],
    "it belongs to a package with ten dependencies; see test_publishing.py": [
        "clip_benchmark build 'outputs/*/*/clip_benchmark/*.json' --output benchmark.csv"
    ],
    "it evaluates what the command above it has trained": [
        "clipshift evaluate model=lite model.checkpoint=outputs/robustify_lite/model data=folder "
        "data.root=PHOTOS"
    ],
    "it requires an account": ["hf upload USER/NAME outputs/robustify/model"],
}
"""Commands that are not run, by reason."""
ELSEWHERE = {
    "extend.md": "test_own_parts.py",
    "cluster.md": "cluster/test_cluster.py",
    "options.md": "test_options.py",
}
"""By page: the module that runs its commands."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```(?:{language})\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, and the clipshift commands in its text."""
    lines = "\n".join(blocks(page, "sh|bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:clipshift|python \w+\.py) [^`…\n]+)`", page.read_text("utf-8"))
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


COMMANDS_OF_DOCS = [
    line for page in PAGES if page.name not in ELSEWHERE for line in commands(page) if line
]
LEFT_OUT = {line for lines in NOT_RUN.values() for line in lines}
RUN = [line for line in dict.fromkeys(COMMANDS_OF_DOCS) if line not in LEFT_OUT]
OURS = [line for line in RUN if line.startswith(("clipshift ", "python "))]


def test_tests_named_in_the_docs_exist() -> None:
    named = [
        one for page in PAGES for one in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())
    ]
    assert named
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_commands_that_are_not_run_are_still_in_the_docs() -> None:
    assert set(COMMANDS_OF_DOCS) >= LEFT_OUT
    for page, module in ELSEWHERE.items():
        assert page in (ROOT / "tests" / module).read_text()
    others = {line.split()[0] for line in set(RUN) - set(OURS)}
    assert others == {"make", "pip"}  # each has its own test below


@pytest.mark.parametrize(
    "line", [*OURS, *(line for line in sorted(LEFT_OUT) if line.startswith("clipshift demo"))]
)
def test_a_command_of_the_docs_has_valid_options(line: str) -> None:
    name, *arguments = shlex.split(re.sub(r"^(clipshift|python) (\w+)(\.py)?", r"\2", line))
    assert name in COMMANDS
    if name == "check":
        name, arguments = "evaluate", ["experiment=check", *arguments]
    if name not in ("evaluate", "train", "demo"):
        return
    sweep = "-m" in arguments
    for argument in arguments:
        assert argument in FLAGS or "=" in argument, f"{argument} is not an option"
    overrides = [quoted(a) for a in arguments if a not in FLAGS]
    # only the first job of a sweep; Hydra's own options are not in the configuration
    overrides = [re.sub(r"^([^=\[']+=[^,\[']*),.*", r"\1", o) if sweep else o for o in overrides]
    overrides = [o for o in overrides if not o.startswith("hydra")]
    if name == "train":
        assert "stage" in compose_config("train", overrides)
    elif name == "demo":
        validate(compose_config("demo", overrides), "demo")
    else:
        validate(compose_config("evaluate", ["logger=none", *overrides]), "evaluate")


class Desk:
    """A folder in which the docs' commands are run, with a local hub.

    Args:
        root: The folder.
        environment: Additional environment variables.
        terminal: Where they are run.
    """

    def __init__(self, root: Path, environment: dict[str, str], terminal: Terminal) -> None:
        self.root = root
        self.environment = {k: v for k, v in os.environ.items() if k != "CLIPSHIFT_PHOTOS"}
        self.environment |= environment
        self.terminal = terminal
        (root / "placeholders").mkdir()
        self.placeholders = Placeholders(root / "placeholders", self.type_in)

    def type_in(self, folder: Path, command: list[str]) -> str:
        """Run a command in a folder; return its output."""
        done = self.terminal.run(command, folder, self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def empty_folder(self, name: str) -> Path:
        """Make a folder with nothing but the placeholders."""
        folder = self.root / name
        folder.mkdir()
        for file in self.placeholders.root.iterdir():
            (folder / file.name).symlink_to(file)
        return folder

    def checkout(self, name: str) -> Path:
        """Make a checkout with the placeholders."""
        folder = self.empty_folder(name)
        for part in CHECKOUT:
            (folder / part).symlink_to(ROOT / part)
        return folder


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("desk")
    handler = type("Handler", (Hub,), {"folder": root / "hub"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HOME": str(root),
        "HF_HOME": str(root / "huggingface"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "CLIPSHIFT_CACHE": str(root / "cache"),
    }
    if any(item.get_closest_marker("slow") for item in request.session.items):
        own = Terminal(environment)  # its packages know the hub here from the start
        yield Desk(root, environment, own)
        own.close()
    else:
        yield Desk(root, environment, shared_terminal())
    server.shutdown()


@pytest.mark.parametrize(
    "line",
    [pytest.param(o, marks=[] if o in QUICK else pytest.mark.slow, id=o) for o in OURS],
)
def test_a_command_of_the_docs_runs(line: str, desk: Desk) -> None:
    fewer = FEWER.get(line.partition("experiment=")[2].partition(" ")[0], "")
    if "pretrain" in line or "make_lite" in line:
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra train is not installed")
    desk.placeholders.make_for(line)
    place = desk.checkout if line.startswith("python") else desk.empty_folder
    desk.type_in(place(f"command {OURS.index(line)}"), shlex.split(f"{line} {fewer}"))


def run_python(code: str, desk: Desk, name: str) -> Path:
    folder = desk.empty_folder(name)
    (folder / "snippet.py").write_text(code)
    desk.type_in(folder, ["python", "snippet.py"])
    return folder


def test_the_python_of_the_readme_runs(desk: Desk) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    desk.placeholders.make_for(code)
    folder = run_python(code, desk, "readme")
    assert (folder / "my_run" / "report.html").is_file()


@pytest.mark.slow
def test_the_python_page_runs(desk: Desk) -> None:
    (code,) = blocks(ROOT / "docs" / "api.md", "python")
    desk.placeholders.make_for("RUN_A RUN_B")
    given = """
import clipshift
photos = "PHOTOS"
result_a, result_b = clipshift.load_run("RUN_A"), clipshift.load_run("RUN_B")
"""
    folder = run_python(given + code, desk, "python page")
    assert (folder / "folder" / "report.html").is_file()


@pytest.mark.slow
def test_make_evaluate_runs(desk: Desk) -> None:
    """In an existing environment: the test of `pip install` below sets one up."""
    folder = desk.checkout("make")
    binaries = folder / "environment" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (binaries / "python").chmod(0o755)
    (folder / "environment" / ".installed").touch()
    done = subprocess.run(
        ["make", "evaluate"], cwd=folder, env=desk.environment | {"VENV": "environment"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("outputs/*/*/report.html"))


@pytest.mark.slow
def test_it_installs_as_documented_and_runs_outside_the_checkout(desk: Desk) -> None:
    """In a fresh environment that uses the installed large packages, such as torch."""
    checkout = desk.root / "checkout"
    checkout.mkdir()
    for part in CHECKOUT:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, checkout / part)
    subprocess.run([sys.executable, "-m", "venv", str(desk.root / "fresh")], check=True)
    beside = next(path for path in sys.path if path.endswith("site-packages"))
    environment = desk.environment | {"PYTHONPATH": beside}
    environment["PATH"] = os.pathsep.join([str(desk.root / "fresh" / "bin"), os.environ["PATH"]])

    def bash(line: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    installs = [line for line in RUN if line.startswith("pip ")]
    for line in sorted(installs, key=lambda line: "-e" not in line):
        bash(line, checkout)
    shutil.rmtree(checkout)
    desk.placeholders.make_for("PHOTOS RUN_A RUN_B")
    folder = desk.empty_folder("newcomer")
    where = bash("python -c 'import clipshift; print(clipshift.__file__)'", folder)
    assert where.startswith(str(desk.root / "fresh"))
    bash("clipshift evaluate data=folder data.root=PHOTOS aug=flip", folder)
    bash("clipshift compare RUN_A RUN_B", folder)
    assert "lite" in bash("clipshift models", folder)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    kernel = [str(shared_terminal().python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": kernel, "display_name": "forked", "language": "python"}
    (tmp_path / "kernels" / "forked").mkdir(parents=True)
    (tmp_path / "kernels" / "forked" / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    nbclient.NotebookClient(
        notebook, kernel_name="forked", timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output["output_type"] != "display_data" for output in shown)  # no bars
    assert any("<svg" in output.get("data", {}).get("text/html", "") for output in shown)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "measure_shift" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
