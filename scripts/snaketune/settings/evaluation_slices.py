"""What evaluation gets of the configuration."""

from typing import Any, TypedDict

from snaketune.settings.data_section import Data
from snaketune.settings.evaluate_section import Evaluate
from snaketune.settings.merge_section import Merge
from snaketune.settings.model_section import Model
from snaketune.settings.train_section import Train


class ModelUse(TypedDict, total=False):
    """The sections that say how a model is loaded; of ``train`` they have the threads."""

    model: Model
    train: Train


class EvaluationSlice(ModelUse, total=False):
    """The slice of ``evaluate_model``, with what was found of files and tasks: paths, digests and options."""

    data: Data
    merge: Merge
    evaluate: Evaluate
    evaluation_files: list[dict[str, Any]]
    evaluation_tasks: list[dict[str, str]]
