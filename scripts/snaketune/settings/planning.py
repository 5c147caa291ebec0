"""What planning gets of the configuration."""

from snaketune.settings.data import Data
from snaketune.settings.evaluate import Evaluate
from snaketune.settings.merge import Merge
from snaketune.settings.plan import Plan
from snaketune.settings.training import ModelTraining


class PlanningSlice(ModelTraining, total=False):
    """The slice of ``plan_run``."""

    plan: Plan
    data: Data
    merge: Merge
    evaluate: Evaluate
