"""Train a model: ``python train.py --help``. The same as ``clipshift train``."""

import sys

from clipshift.cli.main import train

if __name__ == "__main__":
    train(sys.argv[1:])
