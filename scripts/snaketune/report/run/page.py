"""Facts in, one HTML page out: a pure function without a clock, an environment or a network."""

import functools
from typing import Any

from snaketune.facts.evaluation_facts import MODELS
from snaketune.report import units
from snaketune.report.charts import charts, loss_charts
from snaketune.report.filling import fill
from snaketune.report.plan import plan_compared
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run import (
    breakdown,
    evaluation_table,
    example_texts,
    findings,
    funnel,
    history,
    lengths,
    machine_section,
    merge_findings,
    reproducing,
    scores,
)
from snaketune.report.run.answers import ANSWER_KINDS
from snaketune.report.run.verdict import verdict
from snaketune.report.text import excerpt

MODEL_NAMES = {"base": "Base", "tuned": "Tuned", "merged": "Merged"}


def render_run(facts: RunPageFacts) -> str:
    """Return the report of a run as one self-contained HTML page; equal facts give equal bytes."""
    return fill("page.html.j2", **run_sections(facts))


def run_sections(facts: RunPageFacts) -> dict[str, Any]:
    """Return what the template shows, by section; every number is text already."""
    return {
        "name": excerpt(facts.run["run"] or "run", 100).text,
        "verdict": verdict(facts),
        "findings": findings.findings(facts),
        **_loss(facts),
        "small_charts": charts.small_charts(facts),
        **_better(facts),
        **_cost(facts),
        **_data(facts),
        "merge": merge_findings.merge_check(facts),
        **_again(facts),
    }


def _loss(facts: RunPageFacts) -> dict[str, Any]:
    steps, tokens = loss_charts.loss_chart(facts), loss_charts.loss_over_tokens(facts)
    measured = [chart for chart in (loss_charts.loss_over_time(facts), loss_charts.loss_over_dollars(facts)) if chart]
    choices = [chart for chart in (steps, tokens, *measured) if chart]
    return {
        "loss": steps,
        "loss_tokens": tokens,
        "loss_measured": measured,
        "loss_choices": [(chart.name, loss_charts.BUTTONS[chart.name]) for chart in choices],
        "loss_logarithmic": loss_charts.can_be_logarithmic(facts),
    }


def _cost(facts: RunPageFacts) -> dict[str, Any]:
    return {
        "took": machine_section.took(facts),
        "planning": plan_compared.planning(facts),
        "time_split": machine_section.time_split(facts),
        "rate_charts": machine_section.rate_charts(facts),
        "checkpoint_facts": machine_section.checkpoint_rows(facts),
        "token_costs": machine_section.token_costs(facts),
        "has_price": loss_charts.dollars_per_hour(facts) is not None,
        "timeline": history.timeline(facts),
        "speeds": machine_section.speeds(facts.timing),
    }


def _better(facts: RunPageFacts) -> dict[str, Any]:
    counts = facts.answers.counts
    return {
        "rows": evaluation_table.metric_rows(facts.evaluation, facts.answers),
        "source_parts": breakdown.source_parts(facts.evaluation, source_paths(facts)),
        "length_parts": breakdown.length_parts(facts.evaluation),
        "file_parts": breakdown.file_parts(facts.evaluation, facts.file_answers),
        "task_rows": breakdown.task_rows(facts.evaluation),
        "models": [name for name in MODELS if facts.evaluation[name]],
        "model_names": MODEL_NAMES,
        "cases": evaluation_table.held_out_sentences(facts.evaluation),
        "score_chart": scores.score_chart(facts),
        "scored_pairs": scores.scored_pairs(facts),
        "answers": facts.answers,
        "answer_kinds": [(words, units.count(counts[kind])) for kind, words in ANSWER_KINDS.items() if kind in counts],
        "kind_words": ANSWER_KINDS,
        "answer_total": units.count(facts.answers.total, "held-out request"),
        "answers_shown": units.count(len(facts.answers.shown)),
    }


def _data(facts: RunPageFacts) -> dict[str, Any]:
    return {
        "funnel": funnel.funnel(facts),
        "quarantine": facts.quarantine,
        "quarantined": units.count(facts.reading["quarantined"]),
        "duplicates": facts.duplicates,
        "removed": units.count(facts.dedupe["removed"]),
        "reason_words": funnel.reason_words,
        "place": functools.partial(place, source_paths(facts)),
        "leaks": facts.leaks,
        "left_out": facts.left_out,
        "too_long": facts.too_long,
        "too_long_total": units.count((facts.rightsize["dropped"] or 0) + (facts.rightsize["truncated"] or 0)),
        "lengths": lengths.length_chart(facts),
        "coverage": lengths.coverage_chart(facts),
        "batch_ways": lengths.batch_ways(facts),
        "length_facts": lengths.length_facts(facts),
        "packing": lengths.packing(facts),
        "examples": example_texts.examples(facts),
    }


def source_paths(facts: RunPageFacts) -> list[str]:
    """Return the paths of the sources, in the order of their numbers."""
    return [source["path"] for source in facts.reading["sources"]]


def place(paths: list[str], side: tuple[int, int]) -> str:
    """Return a record's source and line; the source is its number where ``paths`` has no name for it."""
    number, line = side
    name = excerpt(paths[number], 200).text if 0 <= number < len(paths) else f"source {number}"
    return f"{name}, line {line}"


def _again(facts: RunPageFacts) -> dict[str, Any]:
    return {
        "changed": reproducing.settings_of_run(facts, changed=True),
        "defaults": reproducing.settings_of_run(facts, changed=False),
        "sources": reproducing.sources(facts),
        "digests": reproducing.digests(facts),
        "code_digests": reproducing.code_digests(facts),
        "versions": reproducing.package_versions(facts),
        "seeds": reproducing.seeds(facts),
        "fingerprint": str(facts.run["fingerprint"] or units.NOT_MEASURED),
        "changes": history.changes(facts),
        "machine_facts": history.machine_facts(facts),
        "run_id": excerpt(facts.run["id"], 200).text,
        "config_file": reproducing.config_file(facts),
        "command": reproducing.COMMAND,
    }
