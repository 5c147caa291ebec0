"""The parts of the configuration that training receives."""

from typing import TypedDict

from snaketune.settings.adapter_section import AdapterSection
from snaketune.settings.model_section import ModelSection
from snaketune.settings.plan_section import PlanSection
from snaketune.settings.train_section import TrainSection


class StartedAdapter(AdapterSection, total=False):
    """An adapter section; ``start`` is the identity of the adapter that training continues from."""

    start: str


class PaddedTrain(TrainSection, total=False):
    """A train section with the keys that only ablations set: compute padding, or common prefixes, in each document."""

    keeps_padding: bool
    keeps_prefixes: bool


class ModelTraining(TypedDict, total=False):
    """The sections that decide what a step of training computes."""

    model: ModelSection
    adapter: StartedAdapter
    train: PaddedTrain


class TrainingSlice(ModelTraining, total=False):
    """The slice of ``train_model``; ``plan`` contains only the number of devices."""

    plan: PlanSection


class ProbeSlice(TrainingSlice, total=False):
    """The slice of ``probe_run``: with ``autotune``, other settings with the same result are measured, too."""

    autotune: bool
