"""Measure the shift: ``python evaluate.py --help``. The same as ``clipshift evaluate``."""

import sys

from clipshift.cli.main import evaluate

if __name__ == "__main__":
    evaluate(sys.argv[1:])
