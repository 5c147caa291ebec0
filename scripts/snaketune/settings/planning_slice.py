"""The part of the configuration that planning receives."""

from snaketune.settings.data_section import DataSection
from snaketune.settings.evaluate_section import EvaluateSection
from snaketune.settings.merge_section import MergeSection
from snaketune.settings.plan_section import PlanSection
from snaketune.settings.training_slices import ModelTraining


class PlanningSlice(ModelTraining, total=False):
    """The slice of ``plan_run``."""

    plan: PlanSection
    data: DataSection
    merge: MergeSection
    evaluate: EvaluateSection
