"""The evaluation: photos through augmentations and encoder into measures, tables and facts."""

from clipshift.evaluate.accuracy import CleanAccuracy, clean_accuracy
from clipshift.evaluate.evaluation import Evaluation, resize_for, run_evaluation
from clipshift.evaluate.module import SaveOptions, ShiftEvaluation

__all__ = [
    "CleanAccuracy",
    "Evaluation",
    "SaveOptions",
    "ShiftEvaluation",
    "clean_accuracy",
    "resize_for",
    "run_evaluation",
]
