"""The stages in the terminal: a label for each, and a summary of its result from its facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.plan.summary import dollars, duration, gigabytes, plan_number
from snaketune.report import units
from snaketune.workflow.stage_table import STAGE_BY_NAME, TABLE

StageFacts = Mapping[str, Any]
LABEL_WIDTH = 10


def columns(label: str, text: str, run: str = "") -> str:
    """Return a line for the terminal: a label, the run if given, and a text."""
    return f"{label:{LABEL_WIDTH}} {f'{run}: ' if run else ''}{text}"


def _staged(facts: StageFacts) -> str:
    sources = facts["sources"]
    return f"{units.count(len(sources), 'source')}, {units.file_size(sum(each['bytes'] for each in sources))}"


def _read(facts: StageFacts) -> str:
    quarantined = facts["quarantined"]
    bad = f", {units.count(quarantined, 'line')} quarantined" if quarantined else ""
    return f"{units.count(facts['records'], 'record')}{bad}"


def _deduplicated(facts: StageFacts) -> str:
    return f"{units.count(facts['records_in'])} → {units.count(facts['kept'], 'record')}"


def _split(facts: StageFacts) -> str:
    kept_out = facts["dropped_similar"] + facts["dropped_contaminated"]
    removed = f", {units.count(kept_out)} kept out of training" if kept_out else ""
    return f"{units.count(facts['train'], 'record')} to train on, {units.count(facts['eval'])} held out{removed}"


def _tokenised(facts: StageFacts) -> str:
    splits = facts["splits"].values()
    tokens, trained = (sum(split[name] for split in splits) for name in ("tokens", "trainable_tokens"))
    return f"{units.count(tokens, 'token')}, {units.count(trained)} trained"


def _rightsized(facts: StageFacts) -> str:
    lost = [f"{units.count(facts[name])} {name}" for name in ("dropped", "truncated") if facts[name]]
    return ", ".join([f"at most {units.count(facts['max_length'], 'token')} a record", *lost])


def _packed(facts: StageFacts) -> str:
    train = facts["splits"]["train"]
    filled = units.percent(train["efficiency"])
    return f"{units.count(train['rows'], 'row')} of {units.count(facts['row_length'], 'token')}, {filled} filled"


def _tokenizer(facts: StageFacts) -> str:
    return f"{facts['name']}, {units.count(facts['vocab_size'], 'token')}"


def _model(facts: StageFacts) -> str:
    return f"{facts['name']}, {units.count(facts.get('parameters'), 'parameter')}"


def _planned(facts: StageFacts) -> str:
    hours, cost = duration(facts.get("hours")), dollars(facts.get("cost_usd"))
    steps, tokens = plan_number(facts["steps"]), plan_number(facts["tokens_total"])
    return f"{steps} steps, {tokens} tokens, {gigabytes(facts['memory_gb'])}, time {hours}, cost {cost}"


def _trained(facts: StageFacts) -> str:
    return f"{units.count(facts['steps'], 'step')}, last loss {units.significant(facts['train_loss_last'])}"


def _merged(facts: StageFacts) -> str:
    if facts.get("refused"):
        return "refused"
    words = {"equal": "equals the tuned model", "rounded": "equals the tuned model up to rounding"}
    found = (facts.get("check") or {}).get("verdict")
    return "not compared with the tuned model" if found is None else words.get(str(found), str(found))


def _evaluated(facts: StageFacts) -> str:
    base, tuned = ((facts.get(model) or {}).get("loss") for model in ("base", "tuned"))
    return f"loss {units.significant(base)} → {units.significant(tuned)}"


# Functions that summarise a stage's result from its facts.
SUMMARIES = {
    "stage_sources": _staged,
    "read_records": _read,
    "dedupe_records": _deduplicated,
    "split_records": _split,
    "prepare_tokenizer": _tokenizer,
    "tokenize_records": _tokenised,
    "rightsize": _rightsized,
    "pack_rows": _packed,
    "prepare_model": _model,
    "plan_run": _planned,
    "train_model": _trained,
    "merge_adapter": _merged,
    "evaluate_model": _evaluated,
}
# Stages whose output is for a person to open, so its path is shown.
NAMED = ("render_report", "compare_runs", "convert_to_gguf")
LABELS = {stage.name: stage.label for stage in TABLE}
LABELS |= {shard.rule: shard.label for stage in TABLE for shard in stage.shard_rules}
# The stage that makes each file of a run, to name reused results.
STAGE_OF_FILE = {file: stage.name for stage in TABLE if stage.scope == "run" for file in stage.results}


def outcome(rule: str, outputs: Sequence[str]) -> str:
    """Return a summary of a finished job's result, '' if its facts give none.

    Args:
        rule: the rule of the job.
        outputs: the paths of its outputs.
    """
    if not outputs or rule not in SUMMARIES:
        return outputs[0] if outputs and rule in NAMED else ""
    path = next((path for path in outputs if Path(path).name == STAGE_BY_NAME[rule].results[0]), None)
    try:
        return SUMMARIES[rule](read_json(path)) if path else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # the next stage that reads these facts reports what is wrong


def stages_of(paths: Sequence[str], made: set[str]) -> list[str]:
    """Return the labels of stages whose results in ``paths`` existed already, in the order of the workflow.

    Args:
        paths: the requested results.
        made: the outputs of the jobs that ran.
    """
    rules = [_rule_of(Path(path)) for path in paths if path not in made]
    ran = {_rule_of(Path(path)) for path in made}
    return [stage.label for stage in TABLE if stage.label and stage.name in rules and stage.name not in ran]


def _rule_of(path: Path) -> str:
    if path.name in STAGE_OF_FILE:
        return STAGE_OF_FILE[path.name]
    return "prepare_model" if path.parents[1].name == "models" else path.parents[1].name
