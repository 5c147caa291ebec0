"""What training gets of the configuration."""

from typing import TypedDict

from snaketune.settings.adapter_section import AdapterSection
from snaketune.settings.model_section import ModelSection
from snaketune.settings.plan_section import PlanSection
from snaketune.settings.train_section import TrainSection


class StartedAdapter(AdapterSection, total=False):
    """An adapter section; ``start`` is the identity of the adapter that training continues from."""

    start: str


class PaddedTrain(TrainSection, total=False):
    """A train section with what ablations alone set: to compute padding, or common prefixes, in each document."""

    keeps_padding: bool
    keeps_prefixes: bool


class ModelTraining(TypedDict, total=False):
    """The sections that decide what a step of training computes."""

    model: ModelSection
    adapter: StartedAdapter
    train: PaddedTrain


class TrainingSlice(ModelTraining, total=False):
    """The slice of ``train_model``; of ``plan`` it has the number of devices."""

    plan: PlanSection


class ProbeSlice(TrainingSlice, total=False):
    """What ``probe_run`` gets: ``autotune`` asks for other settings of the same result to be measured, too."""

    autotune: bool
