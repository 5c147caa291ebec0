"""The fact files of one run, by the name under which pages and cards have them."""

from typing import Any

from snaketune.facts.data import DEDUPLICATION, PACKING, READING, RIGHTSIZE, SPLIT, TOKENS
from snaketune.facts.evaluation import EVALUATION
from snaketune.facts.fact_files import FactFile
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO
from snaketune.facts.merging import MERGED
from snaketune.facts.model import BASE_MODEL
from snaketune.facts.plan import PLAN
from snaketune.facts.run import HISTORY, RUN
from snaketune.facts.training import TRAINED

FACT_FILES: dict[str, FactFile[Any]] = {
    "run": RUN,
    "reading": READING,
    "dedupe": DEDUPLICATION,
    "split": SPLIT,
    "tokens": TOKENS,
    "pack": PACKING,
    "rightsize": RIGHTSIZE,
    "adapter": TRAINED,
    "evaluation": EVALUATION,
    "merged": MERGED,
    "plan": PLAN,
    "info": RUN_INFO,
    "timing": EVALUATION_INFO,
    "history": HISTORY,
    "base": BASE_MODEL,
    "origin": BASE_MODEL,
}
