"""The sections of a card on data, training and the merge check."""

import re
from collections.abc import Mapping
from typing import Any

from snaketune.card.card_facts import CardFacts
from snaketune.card.evaluation_section import basename
from snaketune.card.markdown_text import code, markdown_table, number_text, one_line
from snaketune.facts.merge_facts import CombinationFacts, MergeChecked

MOST_SOURCES_NAMED = 20

# Settings that are always shown. Of the sections that affect the model, settings that were changed are shown as well.
ALWAYS = (
    "train.learning_rate",
    "train.lr_scheduler_type",
    "train.optim",
    "train.per_device_train_batch_size",
    "train.gradient_accumulation_steps",
)
OF_ADAPTERS = ("adapter.r", "adapter.lora_alpha", "adapter.lora_dropout", "adapter.target_modules")
SECTIONS = ("dedupe", "split", "tokens", "adapter", "train", "merge")
DEFAULT = "default"
# Frequencies of saving and logging, and threads: they do not affect the model.
HABITS = ("train.cpu_threads", "train.eval_steps", "train.logging_steps", "train.save_steps", "train.save_total_limit")
# Only simple values are shown: paths, templates and prompts are the user's own text and may be private.
SIMPLE_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,40}", re.ASCII)
METHOD_SENTENCES = {
    "sft": "supervised fine-tuning",
    "dpo": "direct preference optimisation",
    "orpo": "odds-ratio preference optimisation",
    "kto": "Kahneman-Tversky optimisation",
    "reward": "reward modelling",
    "grpo": "group relative policy optimisation",
}
CHECK = {
    "tensors_merged": "tensors merged",
    "adapter_tensors": "tensors of the adapter, all used",
    "relative_error_fp32": "largest relative error of the sums before rounding",
    "logits_error": "error of the sums in the log-probabilities, relative to the change by tuning",
    "file_logits_error": "error of the files in the log-probabilities, relative to the change by tuning",
    "change_kept": "fraction of the change kept in the stored weights",
    "weights": "values in the trained weights",
    "moved": "of those that differ from the base model as stored",
    "score_change": "mean change of a score due to the dtype",
    "scores_compared": "answers whose scores were compared",
    "pairs_reordered": "pairs that the merged model ranks the other way round",
    "mean_kl": "mean KL divergence of the next token, adapter and merged (nats)",
    "adapter_loss": "loss with the adapter (nats per token)",
    "merged_loss": "loss of the merged model (nats per token)",
    "loss_change": "change of the loss due to the dtype (nats per token)",
    "relative_loss_change": "relative change of the loss",
    "tokens": "tokens compared",
}


def method(facts: CardFacts) -> str:
    """Return the name of the training method."""
    name = str(facts.setting("train.method"))
    return METHOD_SENTENCES.get(name, one_line(name))


def training_section(facts: CardFacts) -> list[str]:
    """Return the section on what was trained, for how long, and with which settings."""
    made = facts.adapter
    packing = "packed" if facts.pack["packing"] else "one document a row"
    rows = [
        ("method", f"{method(facts)} of {'every weight' if facts.is_whole else 'an adapter'}"),
        (
            "parameters trained",
            f"{number_text(made['trainable_parameters'])} of {number_text(made['total_parameters'])}",
        ),
        ("optimizer steps", number_text(made["steps"])),
        ("tokens seen", number_text(made["tokens"])),
        ("training loss, last logged step", number_text(made["train_loss_last"])),
        ("rows", f"{number_text(facts.pack['row_length'])} tokens, {packing}"),
        ("seeds", ", ".join(f"{one_line(name)} {value}" for name, value in sorted(facts.run["seeds"].items()))),
        ("packages", ", ".join(f"{one_line(name)} {one_line(v)}" for name, v in sorted(facts.run["versions"].items()))),
    ]
    chosen = [(code(key), code(value)) for key, value in shown_settings(facts)]
    return [
        "## Training",
        "",
        *markdown_table(("", ""), rows),
        "",
        f"Settings; those that are not shown are the workflow's defaults or texts and paths. {code('run.json')} of the"
        " run has all of them:",
        "",
        *markdown_table(("setting", "value"), chosen),
    ]


def shown_settings(facts: CardFacts) -> list[tuple[str, Any]]:
    """Return the main settings and all changed ones, without free text and empty values."""
    config = facts.run["config"]
    always = {*ALWAYS, *(() if facts.is_whole else OF_ADAPTERS)}
    chosen = {key for key in config if key.split(".")[0] in SECTIONS and config[key]["origin"] != DEFAULT}
    chosen -= set(HABITS)
    found = [(key, _shown(facts.setting(key))) for key in sorted(always | chosen)]
    return [(key, value) for key, value in found if value is not None]


def _shown(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value if SIMPLE_VALUE.fullmatch(value) else None
    shown = [_shown(item) for item in value] if isinstance(value, list) else []
    return ", ".join(item for item in shown if item) if shown and None not in shown else None


def merge_section(facts: CardFacts) -> list[str]:
    """Return the results of the merge check; nothing without a merged model."""
    if not facts.is_merged or facts.merged is None:
        return []
    check = facts.merged["check"]
    values: Mapping[str, Any] = check
    rows = [(label, _with_interval(values, key)) for key, label in CHECK.items() if values.get(key) is not None]
    if answers := facts.evaluation["changed_answers"]:
        rows.append(("generated answers that differ from the adapter's", f"{answers['changed']} of {answers['n']}"))
    split = {"eval": "held-out", "train": "training"}.get(check["split"] or "", "packed")
    return [
        "## Merge check",
        "",
        f"The folder was loaded in a fresh process and compared with the adapter on {split} rows before it was"
        f" published. Verdict: {code(check['verdict'] or 'unknown')}. Dtype:"
        f" {code(facts.merged['dtype'] or 'unknown')}, rounding: {code(facts.merged['rounding'] or 'unknown')}.",
        *_cost(check),
        "",
        *markdown_table(("measure", "value"), rows),
        "",
        *_combination(facts.merged["combination"]),
    ]


def _with_interval(check: Mapping[str, Any], key: str) -> str:
    interval = check.get(f"{key}_interval")
    return (
        f"{number_text(check[key])} ({number_text(interval[0])} to {number_text(interval[1])})"
        if interval
        else number_text(check[key])
    )


def _cost(check: MergeChecked) -> list[str]:
    """Return a remark if the dtype loses some of the training."""
    if check["verdict"] != "rounded":
        return []
    told = "The sum is correct, but this dtype loses some of the training: merge with `merge.dtype: float32`"
    return ["", f"{told}, or serve the adapter with its base model, to keep all of it."]


def _combination(combined: CombinationFacts) -> list[str]:
    if not combined["adapters"]:
        return []
    how = one_line(combined["method"] or "unknown")
    rows = [
        (code(adapter["run"]), number_text(adapter["weight"]), code(adapter["digest"]))
        for adapter in combined["adapters"]
    ]
    told = f"It combines the adapters of several runs ({how}); this run's evaluation covers only its own adapter:"
    return [told, "", *markdown_table(("run", "weight", "digest of the adapter"), rows), ""]


def data_section(facts: CardFacts) -> list[str]:
    """Return the section on the sources, with the funnel from their lines to the trained documents."""
    rows = [(label, number_text(value)) for label, value in funnel_counts(facts) if value is not None]
    return ["## Data", "", *_sources(facts), "", *markdown_table(("step", "records"), rows)]


def _sources(facts: CardFacts) -> list[str]:
    sources = facts.run["sources"]
    told = [f"- {code(basename(source['path']))}, content digest {code(source.get('digest'))}" for source in sources]
    more = len(told) - MOST_SOURCES_NAMED
    told = told[:MOST_SOURCES_NAMED] + ([f"- and {number_text(more)} more"] if more > 0 else [])
    ids = [f"- of the hub: [{name}](https://huggingface.co/datasets/{name})" for name in facts.datasets]
    return [*told, *ids]


def funnel_counts(facts: CardFacts) -> list[tuple[str, int | None]]:
    """Return the counts of records kept and removed at each step, in order; None if unknown."""
    split, dropped = facts.split, facts.tokens["splits"]["train"]["dropped"] or {}
    lines = [source["lines"] for source in facts.reading["sources"]]
    return [
        ("lines in the sources", sum(filter(None, lines)) if lines and None not in lines else None),
        ("invalid, set aside", facts.reading["quarantined"]),
        ("duplicates removed", facts.dedupe["removed"]),
        ("left out: too similar to a held-out record", split["dropped_similar"]),
        ("left out: contains text of a named evaluation", split["dropped_contaminated"]),
        ("training split", split["train"]),
        ("held-out split", split["eval"]),
        ("training records without a token to train on or rejected by the template", _sum(dropped)),
        ("training records dropped, too long", facts.rightsize["dropped"]),
        ("training records cut, too long", facts.rightsize["truncated"]),
        ("documents trained on", facts.documents("train")),
        ("documents held out and measured", facts.documents("eval")),
    ]


def _sum(counts: Any) -> int:
    return sum(value for value in counts.values() if isinstance(value, int))
