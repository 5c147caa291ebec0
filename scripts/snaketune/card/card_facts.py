"""The facts of one run from which its model card is generated; none of them is volatile."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from snaketune.core.errors import DataError
from snaketune.facts.data_facts import Deduplication, Packing, Reading, Rightsize, Split
from snaketune.facts.evaluation_facts import Evaluation
from snaketune.facts.fact_files import REPAIR
from snaketune.facts.merge_facts import Merged
from snaketune.facts.model_facts import BaseModel
from snaketune.facts.of_run import FACT_FILES
from snaketune.facts.run_facts import RunIdentity
from snaketune.facts.token_facts import Tokens
from snaketune.facts.training_facts import Trained

# Among the files of tokenising; empty for plain text.
TEMPLATE = "chat_template.jinja"
# Path of a data set in the cache of the hub's client: .../datasets--openai--gsm8k/snapshots/<commit>/...
CACHED_DATASET = re.compile(r"^datasets--([A-Za-z0-9][\w.-]{0,90}?)--([A-Za-z0-9][\w.-]{0,90})$", re.ASCII)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The fact files of a run, checked when they were read.

    Attributes:
        kind: the folder of the card, ``adapter`` or ``merged``.
        base: the manifest of the model from which training started.
        origin: the manifest of the first model in a chain of runs; equal to ``base`` without a chain.
        merged: facts of the merge; None for a run that does not merge.
    """

    kind: str
    run: RunIdentity
    reading: Reading
    dedupe: Deduplication
    split: Split
    tokens: Tokens
    rightsize: Rightsize
    pack: Packing
    adapter: Trained
    evaluation: Evaluation
    base: BaseModel
    origin: BaseModel
    merged: Merged | None = None

    @property
    def is_merged(self) -> bool:
        """Whether the card is for the merged model."""
        return self.kind == "merged"

    @property
    def is_whole(self) -> bool:
        """Whether every weight was trained, so that there is no adapter."""
        return self.adapter["trained"] == "every weight"

    @property
    def chats(self) -> bool:
        """Whether the model was trained with a chat template."""
        return bool(self.tokens["files"][TEMPLATE]["bytes"])

    @property
    def gives_scores(self) -> bool:
        """Whether it is a reward model, which gives scores and no text."""
        return bool(self.setting("train.method") == "reward")

    @property
    def has_own_template(self) -> bool:
        """Whether the chat template of the run differs from the base model's."""
        file = self.base["files"].get(f"model/{TEMPLATE}")
        return self.chats and (file["digest"] if file else None) != self.tokens["files"][TEMPLATE]["digest"]

    @property
    def stop_tokens(self) -> list[int]:
        """The stop tokens to pass explicitly, if the folder's own generation configuration does not list them all."""
        if self.is_merged:
            return []
        return self.evaluation["stop_tokens"]

    @property
    def hub_base(self) -> str | None:
        """The hub id of the base model: for an adapter, the model it was trained on, the only one that it fits."""
        base = self.origin if self.is_merged or self.is_whole else self.base
        return base["repo"] if base["kind"] == "hub" else None

    @property
    def datasets(self) -> list[str]:
        """The hub ids of sources in the cache of the hub's client."""
        parts = [part for source in self.run["sources"] for part in PurePosixPath(source["path"]).parts]
        found = [CACHED_DATASET.match(part) for part in parts]
        return sorted({f"{match[1]}/{match[2]}" for match in found if match})

    def setting(self, key: str) -> Any:
        """Return the value of a configuration key, None if the run has no such key."""
        entry = self.run["config"].get(key)
        return entry["value"] if entry else None

    def documents(self, split: Literal["train", "eval"]) -> int | None:
        """Return the number of a split's documents in packed rows, None if it has no rows."""
        packed = self.pack["splits"].get(split)
        return packed["documents"] if packed else None


def load_card_facts(kind: str, paths: Mapping[str, str | None]) -> CardFacts:
    """Read the fact files at ``paths``, named like the attributes of :class:`CardFacts`; ``merged`` may be None.

    Raises:
        DataError: if a file is missing, damaged or of a newer format.
    """
    facts = CardFacts(kind=kind, **{name: FACT_FILES[name].read(path) for name, path in paths.items() if path})
    if TEMPLATE not in facts.tokens["files"]:
        raise DataError(f"{paths['tokens']}: files.{TEMPLATE} is missing: {REPAIR}.")
    return facts
