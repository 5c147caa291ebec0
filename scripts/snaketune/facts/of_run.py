"""The fact files of one run, by the names that pages and cards use."""

from typing import Any

from snaketune.facts.data_facts import DEDUPLICATION, PACKING, READING, RIGHTSIZE, SPLIT
from snaketune.facts.evaluation_facts import EVALUATION
from snaketune.facts.fact_files import FactFile
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO
from snaketune.facts.merge_facts import MERGED
from snaketune.facts.model_facts import BASE_MODEL
from snaketune.facts.plan_facts import PLAN
from snaketune.facts.run_facts import HISTORY, RUN
from snaketune.facts.token_facts import TOKENS
from snaketune.facts.training_facts import TRAINED

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
