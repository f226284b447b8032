"""The command ``clipshift``. ``evaluate.py`` and ``train.py`` are two of its subcommands."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from clipshift.choices import CONF, experiment_names
from clipshift.cli.arguments import as_typed
from clipshift.cli.command import explained_errors, fail, is_first, loading, run_command
from clipshift.cli.config import OPTIONS, check_paths, finished_runs, name_model, validate
from clipshift.cli.output import lenient_output
from clipshift.errors import UserError, did_you_mean, one_line
from clipshift.options import values_of

# Lightning and open_clip take seconds to import: help and mistakes do not wait for them.


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def evaluate_job(cfg: DictConfig) -> None:
    """Check the configuration, then measure."""
    with explained_errors():
        validate(cfg, "evaluate")
        name_model(cfg, HydraConfig.get().overrides.task)
        if HydraConfig.get().mode == RunMode.RUN:  # a sweep tracks its failed jobs as well
            check_paths(cfg, "evaluate")
        elif cfg.budget:
            raise UserError("budget is for single runs: use clipshift report JOB budget=FILE")
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.leaderboard:
            with loading("rank runs"):
                from clipshift.comparison import rank_runs
            if not rank_runs(list(cfg.leaderboard), folder):
                sys.exit(1)
            return
        if cfg.check:
            with loading("check accuracies"):
                from clipshift.cli.check import check
            if not check(cfg, folder):
                sys.exit(1)
            return
        if cfg.parity:
            with loading(f"compare {cfg.parity.a} with {cfg.parity.b}"):
                from clipshift.cli.parity import EXIT_CODE, parity
            if not parity(cfg, folder):
                sys.exit(EXIT_CODE)
            return
        if cfg.budget:
            with loading(f"judge by {cfg.budget}"):
                from clipshift.cli.budget import judge_run
                from clipshift.comparison.budget import read_budget
            budget = read_budget(cfg.budget)
        if cfg.compare:
            with loading(f"compare {' with '.join(map(str, cfg.compare))}"):
                from clipshift.comparison import compare_runs
            compare_runs(list(cfg.compare), cfg.seed, folder, fetch=cfg.fetch)
        elif cfg.report:
            folder = Path(cfg.report).expanduser()
            if not cfg.budget:
                with loading(f"report {folder}"):
                    from clipshift.cli.report import remake_report
                remake_report(folder, cfg.fetch)
        else:
            with loading(f"measure the shift of {cfg.model.name}", cfg.logger):
                from clipshift.cli.evaluate import evaluate
            evaluate(cfg, folder)
        if cfg.budget and is_first() and (code := judge_run(budget, folder, cfg.compare)):
            sys.exit(code)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train_job(cfg: DictConfig) -> None:
    """Run the stage that the experiment names."""
    with explained_errors():
        options = "finetune" if "train_aug" in cfg else "train"
        validate(cfg, options)
        if "model" in cfg:
            name_model(cfg, HydraConfig.get().overrides.task)
        check_paths(cfg, options)
        experiment = HydraConfig.get().runtime.choices["experiment"]
        with loading(f"train, experiment={experiment}", cfg.logger):
            from clipshift.cli.jobs import announce_stop
            from clipshift.pipeline import locked

            run_stage = hydra.utils.get_method(cfg.stage)
        folder = Path(HydraConfig.get().runtime.output_dir)
        kept = f"the same command goes on from what is kept in {folder}"
        with locked(folder), announce_stop(lambda: kept):
            run_stage(cfg, folder)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="demo")
def demo_job(cfg: DictConfig) -> None:
    """Check the configuration, then show the demo's page."""
    try:
        validate(cfg, "demo")
        name_model(cfg, HydraConfig.get().overrides.task)
        check_paths(cfg, "demo")
        with loading("show the demo"):
            from clipshift.cli.demo import demo
        demo(cfg)
    except UserError as error:
        fail(one_line(str(error)))


def evaluate(arguments: Sequence[str]) -> None:
    """Measure the shift."""
    run_command(evaluate_job, "evaluate", arguments)


def train(arguments: Sequence[str]) -> None:
    """Fine-tune a model, or make one."""
    run_command(train_job, "train", arguments)


def places_and_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders among arguments, as they are typed, and the rest."""
    parts: tuple[list[str], list[str]] = ([], [])
    for argument in arguments:
        parts["=" in argument].append(argument)
    return parts


def compare(arguments: Sequence[str]) -> None:
    """Compare two runs photo by photo."""
    runs, options = places_and_options(arguments)
    if len(runs) != 2:
        fail("compare needs two run folders: clipshift compare RUN_A RUN_B")
    evaluate([f"compare=[{','.join(map(as_typed, runs))}]", *options])


def leaderboard(arguments: Sequence[str]) -> None:
    """Rank the models of runs, of folders with runs, or of a sweep."""
    runs, options = places_and_options(arguments)
    if not runs:
        fail("leaderboard needs runs: clipshift leaderboard RUN ... (or folders that hold runs)")
    options = [re.sub("^out=", "hydra.run.dir=", option) for option in options]
    evaluate([f"leaderboard=[{','.join(map(as_typed, runs))}]", *options])


def check(arguments: Sequence[str]) -> None:
    """Compare zero-shot accuracies with published ones."""
    evaluate(["experiment=check", *arguments])


def parity(arguments: Sequence[str]) -> None:
    """See whether two models that ought to be one agree, and which step makes a difference."""
    if len(arguments) < 2:
        fail("parity needs two models: clipshift parity A B [data=folder data.root=PHOTOS]")
    a, b, *others = arguments
    chosen = [f"parity.a={as_typed(a)}", f"parity.b={as_typed(b)}"]
    own = [f"parity.{one}" if one.startswith("tolerance=") else one for one in others]
    evaluate(["experiment=parity", *chosen, *own])


def report(arguments: Sequence[str]) -> None:
    """Draw a finished run's page again, and open it."""
    runs, options = places_and_options(arguments)
    if len(runs) != 1:
        fail("report needs the folder of a run: clipshift report RUN")
    here = ["hydra.run.dir=.", "hydra.output_subdir=null"]  # it makes no folder
    evaluate([f"report={as_typed(runs[0])}", *here, *options])
    if sys.stdout.isatty():
        import webbrowser

        webbrowser.open((Path(runs[0]).expanduser() / "report.html").resolve().as_uri())


def demo(arguments: Sequence[str]) -> None:
    """Drag a photograph in, and see its embedding shift."""
    run_command(demo_job, "demo", arguments)


def models(arguments: Sequence[str]) -> None:
    """List the models, and whether their weights are here."""
    if arguments:
        fail("models takes no arguments")
    from clipshift.cli.models import print_models

    print_models()


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "evaluate": (evaluate, "[OPTION=VALUE ...]"),
    "compare": (compare, "RUN_A RUN_B [budget=FILE]"),
    "leaderboard": (leaderboard, "RUN|FOLDER ... [out=FOLDER]"),
    "parity": (parity, "A B [tolerance=N] [data=CHOICE ...]"),
    "report": (report, "RUN [fetch=true] [budget=FILE]"),
    "check": (check, "[check.OPTION=VALUE ...]"),
    "train": (train, "experiment=NAME [OPTION=VALUE ...]"),
    "demo": (demo, "[OPTION=VALUE ...]"),
    "models": (models, ""),
}
"""By name: what it does, and its arguments."""
WITHOUT_OPTIONS = ("compare", "leaderboard", "report", "models")
"""The commands whose help is a line."""

HELP = """\
clipshift: what happens inside CLIP when an image is perturbed.

{commands}

clipshift COMMAND --help says more of evaluate, train and demo.
eval "$(clipshift -sc install=bash)" completes commands and options in bash and zsh."""


@lenient_output()
def main() -> None:
    """Run the subcommand that the command line names."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        complete(arguments)
    elif not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = [
            f"  {f'clipshift {name} {usage}':55} {(command.__doc__ or '').rstrip('.')}"
            for name, (command, usage) in COMMANDS.items()
        ]
        print(HELP.format(commands="\n".join(lines)))
    elif arguments[0] == "--version":
        print(f"clipshift {version('clipshift')}")
    elif arguments[0] in WITHOUT_OPTIONS and {"-h", "--help"} & set(arguments):
        command, usage = COMMANDS[arguments[0]]
        print(f"clipshift {arguments[0]} {usage}".rstrip() + f"\n\n{command.__doc__}")
    elif arguments[0] in COMMANDS:
        COMMANDS[arguments[0]][0](arguments[1:])
    else:
        fail(f"no command {arguments[0]!r}{did_you_mean(arguments[0], COMMANDS)}: see --help")


def complete(arguments: Sequence[str]) -> None:
    """Complete a command line: values and runs, and by Hydra's completion all else."""
    line = os.environ.get("COMP_LINE", "")
    words, last = line.split(maxsplit=2), line.rpartition(" ")[2]
    option, equals, _ = last.partition("=")
    if not arguments[1:] or not arguments[1].startswith("query="):
        evaluate(arguments)
    elif not words[1:] or words[1:] == [last]:
        print(*COMMANDS)
    elif words[1] in WITHOUT_OPTIONS[:3] and not equals:
        print(*(run for run in finished_runs() if run.startswith(last)))
    elif values := {"experiment": experiment_names(words[1])}.get(option) or (
        values_of(OPTIONS[option]) if equals and option in OPTIONS else []
    ):
        print(*(word for v in values if (word := f"{option}={v}").startswith(last)))
    elif words[1] in ("evaluate", "train", "check", "demo"):
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        COMMANDS[words[1]][0](arguments)
