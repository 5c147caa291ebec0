"""The parts of the configuration that merging receives."""

from typing import TypedDict

from snaketune.settings.evaluation_slices import ModelUse
from snaketune.settings.merge_section import MergeSection


class CombinedMerge(MergeSection, total=False):
    """A merge section; ``identities`` are those of the adapters that are combined, by run."""

    identities: dict[str, str]


class MergeSlice(ModelUse, total=False):
    """The slice of ``merge_adapter``."""

    merge: CombinedMerge


class ExportSlice(TypedDict):
    """The slice of ``convert_to_gguf``: the system prompt that goes into the Modelfile."""

    system: str | None


class ExportSettings(TypedDict):
    """The operational settings of an export: the converter of llama.cpp to use, if any."""

    gguf_converter: str | None
