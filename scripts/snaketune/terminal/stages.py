"""The stages in the words of the terminal: a name, and what came out as its facts say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.plan.summary import dollars, duration, gigabytes, number
from snaketune.report import units

Facts = Mapping[str, Any]
WIDTH = 10


def columns(label: str, text: str, run: str = "") -> str:
    """Return a line of the terminal: what it is about, and what there is to say."""
    return f"{label:{WIDTH}} {f'{run}: ' if run else ''}{text}"


@dataclass(frozen=True, slots=True)
class Stage:
    """How a rule is shown.

    Attributes:
        label: its name in the terminal; empty for bookkeeping, which is shown only when it fails.
        outcome: what came out, from the facts that the stage wrote; None names its last output.
        facts: the name of the output that holds the facts.
        is_long: whether its beginning is said, because its own lines follow.
    """

    label: str
    outcome: Callable[[Facts], str] | None = None
    facts: str = "manifest.json"
    is_long: bool = False


def _staged(facts: Facts) -> str:
    sources = facts["sources"]
    return f"{units.count(len(sources), 'source')}, {units.file_size(sum(each['bytes'] for each in sources))}"


def _read(facts: Facts) -> str:
    quarantined = facts["quarantined"]
    bad = f", {units.count(quarantined, 'line')} quarantined" if quarantined else ""
    return f"{units.count(facts['records'], 'record')}{bad}"


def _deduplicated(facts: Facts) -> str:
    return f"{units.count(facts['records_in'])} → {units.count(facts['kept'], 'record')}"


def _split(facts: Facts) -> str:
    kept_out = facts["dropped_similar"] + facts["dropped_contaminated"]
    removed = f", {units.count(kept_out)} kept out of training" if kept_out else ""
    return f"{units.count(facts['train'], 'record')} to train on, {units.count(facts['eval'])} held out{removed}"


def _tokenised(facts: Facts) -> str:
    splits = facts["splits"].values()
    tokens, trained = (sum(split[name] for split in splits) for name in ("tokens", "trainable_tokens"))
    return f"{units.count(tokens, 'token')}, {units.count(trained)} trained"


def _rightsized(facts: Facts) -> str:
    lost = [f"{units.count(facts[name])} {name}" for name in ("dropped", "truncated") if facts[name]]
    return ", ".join([f"at most {units.count(facts['max_length'], 'token')} a record", *lost])


def _packed(facts: Facts) -> str:
    train = facts["splits"]["train"]
    filled = units.percent(train["efficiency"])
    return f"{units.count(train['rows'], 'row')} of {units.count(facts['row_length'], 'token')}, {filled} filled"


def _tokenizer(facts: Facts) -> str:
    return f"{facts['name']}, {units.count(facts['vocab_size'], 'token')}"


def _model(facts: Facts) -> str:
    return f"{facts['name']}, {units.count(facts.get('parameters'), 'parameter')}"


def _planned(facts: Facts) -> str:
    hours, cost = duration(facts.get("hours")), dollars(facts.get("cost_usd"))
    what = f"{number(facts['steps'])} steps, {number(facts['tokens_total'])} tokens, {gigabytes(facts['memory_gb'])}"
    return f"{what}, time {hours}, cost {cost}"


def _trained(facts: Facts) -> str:
    return f"{units.count(facts['steps'], 'step')}, last loss {units.significant(facts['train_loss_last'])}"


def _merged(facts: Facts) -> str:
    if facts.get("refused"):
        return "refused"
    words = {"equal": "equals the tuned model", "rounded": "equals the tuned model but for rounding"}
    found = (facts.get("check") or {}).get("verdict")
    return "not compared with the tuned model" if found is None else words.get(str(found), str(found))


def _evaluated(facts: Facts) -> str:
    base, tuned = ((facts.get(model) or {}).get("loss") for model in ("base", "tuned"))
    return f"loss {units.significant(base)} → {units.significant(tuned)}"


# Every rule with a line of its own. What is not here is bookkeeping.
STAGES = {
    "stage_sources": Stage("stage", _staged),
    "read_shard": Stage("read shard"),
    "read_records": Stage("read", _read),
    "key_shard": Stage("dedupe shard"),
    "dedupe_records": Stage("dedupe", _deduplicated),
    "split_records": Stage("split", _split),
    "prepare_tokenizer": Stage("tokenizer", _tokenizer),
    "tokenize_shard": Stage("tokenise shard"),
    "tokenize_records": Stage("tokenise", _tokenised),
    "rightsize": Stage("rightsize", _rightsized, "rightsize.json"),
    "pack_rows": Stage("pack", _packed),
    "prepare_model": Stage("model", _model, is_long=True),
    "probe_run": Stage("probe", is_long=True),
    "plan_run": Stage("plan", _planned, "plan.json"),
    "train_model": Stage("train", _trained, "adapter.manifest.json", is_long=True),
    "merge_adapter": Stage("merge", _merged, "merge.json"),
    "evaluate_model": Stage("evaluate", _evaluated, "evaluation.json", is_long=True),
    "ablate_run": Stage("ablate", is_long=True),
    "convert_to_gguf": Stage("gguf", is_long=True),
    "render_report": Stage("report"),
    "compare_runs": Stage("compare"),
}
# Files of a run by the stage that makes them, to name what was reused.
FILES = {
    "plan.json": "plan_run",
    "adapter.manifest.json": "train_model",
    "merge.json": "merge_adapter",
    "evaluation.json": "evaluate_model",
    "report.html": "render_report",
}


def outcome(rule: str, outputs: Sequence[str]) -> str:
    """Return what came out of a finished job, or nothing where its facts do not say.

    Args:
        rule: its rule.
        outputs: the paths of its outputs.
    """
    stage = STAGES.get(rule)
    if stage is None or not outputs:
        return ""
    if stage.outcome is None:
        return outputs[0] if stage.label in ("report", "compare", "gguf") else ""
    path = next((path for path in outputs if Path(path).name == stage.facts), None)
    try:
        return stage.outcome(read_json(path)) if path else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the stage that reads these facts next says what is wrong with them


def stages_of(paths: Sequence[str], made: set[str]) -> list[str]:
    """Return the labels of the stages whose results in ``paths`` were there already, in the order of the workflow.

    Args:
        paths: what the wanted results are.
        made: the outputs of the jobs that ran.
    """
    rules = [_rule_of(Path(path)) for path in paths if path not in made]
    ran = {_rule_of(Path(path)) for path in made}
    return [stage.label for rule, stage in STAGES.items() if rule in rules and rule not in ran]


def _rule_of(path: Path) -> str:
    if path.name in FILES:
        return FILES[path.name]
    return "prepare_model" if path.parents[1].name == "models" else path.parents[1].name
