"""Plan a run: tokens, steps, hours, dollars, memory and disk, and whether it may start.

Arguments:
    settings: operational settings of the training.
    rightsize: rightsize.json of the run.
    pack: manifest of the packed rows.
    model: manifest of the base model.
    results: folder of all results, for what earlier runs measured.
    name: name of the run.
    probe: probe.json, if a short training was measured.
    benchmarks: JSON object: the benchmark file of each earlier stage.
    work: folder of resumable state, for what is known of the model.
    output: plan.json to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write plan.json, also for a run that exceeds its budget or the machine: only training refuses it."""
    names = ("settings", "rightsize", "pack", "model", "results", "output")
    arguments = parse_arguments(__doc__, *names, optional=("probe", "work"), json=("benchmarks",), facts=("output",))
    from datetime import datetime

    from snaketune.core.canonical import read_json
    from snaketune.data.rows.packed_rows import PackedRows
    from snaketune.facts.plan import PLAN
    from snaketune.model.adapters.new_tokens import advice_on_tokens, untrained_tokens, with_token_numbers
    from snaketune.plan.cache import answers_about
    from snaketune.plan.costs.past_runs import preparation_seconds
    from snaketune.plan.devices.machine import look_at_machine
    from snaketune.plan.gate import check_plan
    from snaketune.plan.planning import PlanInputs, make_plan
    from snaketune.train.packages import spare_unused

    spare_unused(arguments.cfg)
    # Of the model only the configuration is read, and of its weights, which may be large, the embedding.
    facts = {name: read_json(getattr(arguments, name)) for name in ("rightsize", "pack", "model")}
    results, folder = Path(arguments.results), Path(arguments.model).parent / "model"
    rows = Path(arguments.pack).parent / "train.arrow"
    # What is known of a model saves the seconds that torch and transformers take to load; code of its own may change.
    work = arguments.work if not arguments.cfg["model"]["trust_remote_code"] else None
    place = Path(work) / "plans" / f"{folder.parent.name}.json" if work else None
    answers = answers_about(facts["model"], arguments.code, place) if place else None

    def new_tokens() -> dict[str, int]:
        return answers.value("new tokens", lambda: untrained_tokens(folder)) if answers else untrained_tokens(folder)

    cfg = arguments.cfg | {"adapter": with_token_numbers(arguments.cfg["adapter"], folder)}
    inputs = PlanInputs(
        cfg=cfg,
        settings=arguments.settings,
        **facts,
        model_folder=folder,
        results=results,
        own=Path(arguments.output).parent,
        machine=look_at_machine(results),
        now=datetime.now().astimezone(),
        probe=read_json(arguments.probe) if arguments.probe else None,
        token_advice=advice_on_tokens(lambda: PackedRows(rows), new_tokens, cfg["adapter"]),
        preparation=preparation_seconds(arguments.benchmarks),
        answers=answers,
    )
    plan = make_plan(inputs)
    if answers:
        answers.save()
    gate = check_plan(plan)
    plan["stops"] = list(gate.stops)
    for note in gate.notes:
        print(f"Note: {note}", flush=True)
    PLAN.write(arguments.output, plan)


if __name__ == "__main__":
    run(main)
