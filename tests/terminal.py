"""A terminal for tests: each command in a process of its own, with what is slow to import.

Reads lines of JSON, ``[folder, words]``, where ``words`` are ``clipshift …`` or ``python FILE …``.
Runs each in its folder, with what it says in ``said.txt``, and prints its exit code.
"""

import importlib
import json
import os
import runpy
import sys
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

IMPORTED = ["wandb", "hydra", "clipshift.comparison", "clipshift.train.finetuning"]
IMPORTED += ["clipshift.evaluate", "clipshift.report.run"]
"""But not `clipshift.cli`, which keeps the command line that it is imported under."""


class HubHere(urllib.request.HTTPSHandler):
    """Has what stands on the hub from ``$HF_ENDPOINT``."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        here = os.environ["HF_ENDPOINT"]
        return urllib.request.urlopen(req.full_url.replace("https://huggingface.co", here))


def run(folder: str, words: list[str]) -> None:
    """Become a command, in the folder that it is typed in."""
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if words[0] == "python":
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")
    else:
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__")


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    for name in IMPORTED:
        importlib.import_module(name)
    urllib.request.install_opener(urllib.request.build_opener(HubHere))
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(*json.loads(line))
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
