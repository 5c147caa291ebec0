"""The weights that a training kept, if it kept the best checkpoint or stopped early."""

from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts


def kept_step(facts: RunPageFacts) -> int | None:
    """Return the step whose weights were kept; None if only the last step was requested."""
    return facts.adapter["best"]["kept_step"]


def what_was_kept(facts: RunPageFacts) -> str:
    """Return one sentence on the kept checkpoint and an early stop; nothing if neither was requested."""
    kept, steps = kept_step(facts), facts.adapter["steps"]
    if kept is None:
        return ""
    best, value = facts.adapter["best"]["step"], units.significant(facts.adapter["best"]["value"])
    name = str(facts.adapter["best"]["metric"]).removeprefix("eval_").replace("_", " ")
    ended = f"Training stopped early after step {units.count(steps)}. "
    stopped = ended if facts.adapter["best"]["stopped_early"] else ""
    if kept == best:
        return f"{stopped}The weights of step {units.count(kept)} were kept: the best held-out {name} ({value})."
    was = f"that of step {units.count(best)}"
    return f"{stopped}The last weights were kept; the best held-out {name} ({value}) was {was}."
