"""What merging gets of the configuration."""

from snaketune.settings.evaluation import ModelUse
from snaketune.settings.merge import Merge


class CombinedMerge(Merge, total=False):
    """A merge section; ``identities`` are those of the adapters that are combined, by run."""

    identities: dict[str, str]


class MergeSlice(ModelUse, total=False):
    """The slice of ``merge_adapter``."""

    merge: CombinedMerge
