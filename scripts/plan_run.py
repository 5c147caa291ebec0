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

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write plan.json, also for a run that exceeds its budget or the machine: only training refuses it."""
    names = ("settings", "rightsize", "pack", "model", "results", "output")
    arguments = parse_arguments(
        __doc__, *names, optional=("probe", "work"), texts=("name",), json=("benchmarks",), facts=("output",)
    )
    from snaketune.train.packages import spare_unused

    spare_unused(arguments.cfg)
    from snaketune.plan.plan_job import PlanJob, plan_run

    plan_run(PlanJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
