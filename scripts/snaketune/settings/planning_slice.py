"""What planning gets of the configuration."""

from snaketune.settings.data_section import Data
from snaketune.settings.evaluate_section import Evaluate
from snaketune.settings.merge_section import Merge
from snaketune.settings.plan_section import Plan
from snaketune.settings.training_slices import ModelTraining


class PlanningSlice(ModelTraining, total=False):
    """The slice of ``plan_run``."""

    plan: Plan
    data: Data
    merge: Merge
    evaluate: Evaluate
