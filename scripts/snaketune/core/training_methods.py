"""What each value of ``train.method`` learns from, for the stages that prepare, train and evaluate."""

from collections.abc import Mapping
from typing import Any

# Methods that compare a chosen with a rejected answer to the same prompt.
PAIRED = ("dpo", "orpo", "reward")
# Methods that learn which answers are better, from pairs or from answers with a label.
PREFERENCE = (*PAIRED, "kto")
# Methods of which the packed rows are those of sft.
SFT_ROWS = ("sft", "grpo")
# Those that compare with the model before its first step.
REFERENCED = ("dpo", "kto")


def method_of(sections: Mapping[str, Any]) -> str:
    """Return the method in a stage's configuration slice; data that are prepared as for sft do not say it."""
    found: str = sections.get("train", {}).get("method", "sft")
    return found
