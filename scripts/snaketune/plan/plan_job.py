"""Writes plan.json from a run's files, even if the run exceeds its budget or the machine: training then refuses it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.facts.data_facts import COUNTED_ROWS, DOCUMENT_LENGTHS
from snaketune.facts.model_facts import PREPARED_MODEL, PreparedModel
from snaketune.facts.plan_facts import PLAN
from snaketune.facts.probe_facts import PROBE
from snaketune.model.adapters.new_tokens import advice_on_tokens, untrained_tokens, with_token_numbers
from snaketune.plan.cache import KeptAnswers, answers_about
from snaketune.plan.costs.past_runs import preparation_seconds
from snaketune.plan.devices.machine import look_at_machine
from snaketune.plan.gate import check_plan
from snaketune.plan.planning import PlanInputs, make_plan
from snaketune.settings.operational import Operational
from snaketune.settings.planning_slice import PlanningSlice


@dataclass(frozen=True, slots=True)
class PlanJob:
    """The inputs of a plan, named like the flags of ``plan_run.py``, which documents them."""

    spec: str
    code: str
    cfg: PlanningSlice
    settings: Operational
    rightsize: Path
    pack: Path
    model: Path
    results: Path
    name: str
    probe: Path | None
    benchmarks: dict[str, str]
    work: Path | None
    output: Path


def plan_run(job: PlanJob) -> None:
    """Write plan.json, including the sentences with which training will refuse to start, and print notes."""
    inputs = _inputs(job)
    plan = make_plan(inputs)
    if inputs.answers:
        inputs.answers.save()
    gate = check_plan(plan)
    plan["stops"] = list(gate.stops)
    for note in gate.notes:
        print(f"Note: {note}", flush=True)
    PLAN.write(job.output, plan)


def _inputs(job: PlanJob) -> PlanInputs:
    # Of the model only the configuration is read, and of its weights, which may be large, the embedding.
    folder, model = job.model.parent / "model", PREPARED_MODEL.read(job.model)
    answers = _answers(job, model)

    def new_tokens() -> dict[str, int]:
        return answers.value("new tokens", lambda: untrained_tokens(folder)) if answers else untrained_tokens(folder)

    adapter = with_token_numbers(job.cfg["adapter"], folder)
    rows = job.pack.parent / "train.arrow"
    return PlanInputs(
        cfg=cast(PlanningSlice, {**job.cfg, "adapter": adapter}),
        settings=job.settings,
        rightsize=DOCUMENT_LENGTHS.read(job.rightsize),
        pack=COUNTED_ROWS.read(job.pack),
        model=model,
        model_folder=folder,
        results=job.results,
        own=job.output.parent,
        machine=look_at_machine(job.results),
        now=datetime.now().astimezone(),
        probe=PROBE.read(job.probe) if job.probe else None,
        token_advice=advice_on_tokens(lambda: PackedRows(rows), new_tokens, adapter),
        preparation=preparation_seconds(job.benchmarks),
        answers=answers,
    )


def _answers(job: PlanJob, model: PreparedModel) -> KeptAnswers | None:
    """Return the cached facts of a model, which save loading torch; None if it has its own code, which may change."""
    if job.work is None or job.cfg["model"]["trust_remote_code"]:
        return None
    return answers_about(model, job.code, job.work / "plans" / f"{job.model.parent.name}.json")
