"""The parts of the configuration that evaluation receives."""

from typing import Any, TypedDict

from snaketune.settings.data_section import DataSection
from snaketune.settings.evaluate_section import EvaluateSection
from snaketune.settings.merge_section import MergeSection
from snaketune.settings.model_section import ModelSection
from snaketune.settings.train_section import TrainSection


class ModelUse(TypedDict, total=False):
    """The sections that say how a model is loaded; ``train`` contains only the threads."""

    model: ModelSection
    train: TrainSection


class EvaluationSlice(ModelUse, total=False):
    """The slice of ``evaluate_model``, with the files and tasks found: paths, digests and options."""

    data: DataSection
    merge: MergeSection
    evaluate: EvaluateSection
    evaluation_files: list[dict[str, Any]]
    evaluation_tasks: list[dict[str, str]]
