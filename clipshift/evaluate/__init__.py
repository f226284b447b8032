"""The evaluation: photos through augmentations and encoder into measures, tables and facts."""

from clipshift.evaluate.accuracy import CleanAccuracy, clean_accuracy
from clipshift.evaluate.evaluation import Evaluation, device_name, run_evaluation
from clipshift.evaluate.module import Keep, ShiftEvaluation

__all__ = [
    "CleanAccuracy",
    "Evaluation",
    "Keep",
    "ShiftEvaluation",
    "clean_accuracy",
    "device_name",
    "run_evaluation",
]
