"""What an ablation gets of the configuration."""

from typing import TypedDict

from snaketune.settings.planning import PlanningSlice
from snaketune.settings.tokens import Tokens
from snaketune.settings.training import TrainingSlice


class TokensSlice(TypedDict, total=False):
    """The slice of a stage that depends on the section ``tokens``."""

    tokens: Tokens


class AblationSlice(TypedDict, total=False):
    """The slices of the stages whose settings are measured, and the factors that are asked for."""

    training: TrainingSlice
    planning: PlanningSlice
    lengths: TokensSlice
    tokenizing: TokensSlice
    factors: list[str]
    catalogue: str
