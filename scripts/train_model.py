"""Train the adapter: resumes by itself, publishes only a finished training.

Arguments:
    settings: operational settings of the training.
    rightsize: rightsize.json of the run.
    plan: plan.json, whose limits are refused.
    rows: manifest of the packed rows.
    model: manifest of the base model.
    start: manifest of the adapter to continue from.
    rewards: merge.json of each reward model, in the order of train.grpo.rewards.
    work: folder of resumable state.
    adapter: folder of the adapter to write.
    metrics: JSON lines of metrics to write.
    info: run_info.json to write.
    manifest: manifest of the adapter to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Train under the lock of the run's fingerprint and publish the adapter."""
    names = ("settings", "rightsize", "plan", "rows", "model", "work", "adapter", "metrics", "info", "manifest")
    others = {"optional": ("start",), "several": ("rewards",)}
    arguments = parse_arguments(__doc__, *names, **others, facts=("metrics", "info", "manifest"))
    from snaketune.train.packages import spare_unused

    spare_unused(arguments.cfg)
    from snaketune.train.training_job import TrainingJob, run_training

    run_training(TrainingJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
