"""The YAML front matter of a card, which the Hugging Face hub reads.

Keys and values follow https://huggingface.co/docs/hub/model-cards. Base models and data sets are included only if they
are known to be on the hub, because the hub rejects other names.
"""

from typing import Any

import yaml

from snaketune.card.card_facts import CardFacts
from snaketune.card.evaluation_section import data_sets, metric_name
from snaketune.card.markdown_text import one_line

FENCE = "---"
TASK, TASK_NAME = "text-generation", "Text Generation"
SCORING, SCORING_NAME = "text-classification", "Text Classification"
# The hub's names of measures, where they differ.
HUB_METRICS = {"rouge_l": "rouge", "token_accuracy": "accuracy"}


def front_matter(facts: CardFacts) -> str:
    """Return the block with its fences; its content does not depend on time or place."""
    text = yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"{FENCE}\n{text}{FENCE}\n"


def metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the content of the block, without unknown values."""
    is_adapter = not facts.is_merged and not facts.is_whole
    known = {
        "base_model": facts.hub_base,
        "base_model_relation": ("adapter" if is_adapter else "finetune") if facts.hub_base else None,
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": SCORING if facts.gives_scores else TASK,
        **licence(facts),
        "language": facts.origin["card"].get("language"),
        "datasets": facts.datasets,
        "tags": hub_tags(facts),
        "model-index": model_index(facts),
    }
    return {key: value for key, value in known.items() if value}


def licence(facts: CardFacts) -> dict[str, str]:
    """Return the licence keys of the base model's card; `other` if it has a licence file but no card."""
    card = facts.origin["card"]
    return {key: card[key] for key in ("license", "license_name", "license_link") if key in card}


def hub_tags(facts: CardFacts) -> list[str]:
    """Return the tags for search on the hub."""
    kind = "full-fine-tune" if facts.is_whole else "dora" if facts.setting("adapter.use_dora") else "lora"
    more = ["reward-model"] if facts.gives_scores else []
    return [kind, str(facts.setting("train.method")), *more, "snaketune"]


def model_index(facts: CardFacts) -> list[dict[str, Any]]:
    """Return the evaluation as a model-index in the format of Papers with Code; empty if nothing was measured."""
    task, name = (SCORING, SCORING_NAME) if facts.gives_scores else (TASK, TASK_NAME)
    results = [
        {
            "task": {"type": task, "name": name},
            "dataset": {"name": one_line(data.name), "type": data.type, "split": data.split},
            "metrics": [_metric(name, value) for name, value in data.values(facts.kind).items()],
        }
        for data in data_sets(facts)
    ]
    results = [result for result in results if result["metrics"]]
    return [{"name": facts.run["run"], "results": results}] if results else []


def _metric(name: str, value: float) -> dict[str, Any]:
    return {"type": HUB_METRICS.get(name, one_line(name)), "value": float(f"{value:.6g}"), "name": metric_name(name)}
