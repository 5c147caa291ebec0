"""The page of an unfinished run: its progress, why it stopped, and how to resume."""

from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_bytes
from snaketune.core.errors import SnaketuneError
from snaketune.report import units
from snaketune.report.charts import loss_charts
from snaketune.report.charts.curves import Curve
from snaketune.report.compare.comparison import hours
from snaketune.report.filling import fill
from snaketune.report.report_facts import RunPageFacts, nothing_but
from snaketune.report.run.history import TITLES
from snaketune.report.run.verdict import Figure
from snaketune.report.text import excerpt
from snaketune.report.unfinished.unfinished import UnfinishedRun, gather_unfinished_run, identity_of

NO_SENTENCE = "It left no error message: it was killed, or the machine went down."


def render_unfinished(unfinished: UnfinishedRun) -> str:
    """Return the page as one self-contained HTML file; equal facts give equal bytes."""
    facts = _as_facts(unfinished)
    stopped = next((stage for stage in unfinished.stages if stage.state == "stopped"), None)
    loss = loss_charts.loss_chart(facts)
    others = [chart for chart in (loss_charts.loss_over_tokens(facts), loss_charts.loss_over_time(facts)) if chart]
    choices = [chart.name for chart in (loss, *others) if chart]
    return fill(
        "unfinished.html.j2",
        name=excerpt(unfinished.run, 100).text,
        run_id=excerpt(unfinished.id, 200).text,
        headline=unfinished_headline(unfinished),
        sentence=excerpt(unfinished.error, 2000).text or NO_SENTENCE if stopped else "",
        figures=unfinished_figures(unfinished),
        log=stopped.log if stopped else "",
        tail=excerpt("\n".join(unfinished.tail), 8000),
        stages=[(title(stage.stage), stage.state, stage.log) for stage in unfinished.stages],
        loss=loss,
        others=others,
        loss_choices=[(name, loss_charts.BUTTONS[name]) for name in choices],
        loss_logarithmic=loss_charts.can_be_logarithmic(facts),
        last=last_losses(unfinished),
        command=excerpt(unfinished.command, 2000).text,
    )


def title(stage: str) -> str:
    """Return the display name of a stage."""
    return TITLES.get(stage) or stage.replace("_", " ").capitalize()


def unfinished_headline(unfinished: UnfinishedRun) -> str:
    """Return where the run stopped, in one line."""
    stopped = next((stage.stage for stage in unfinished.stages if stage.state == "stopped"), None)
    if stopped is None:
        following = next((stage.stage for stage in unfinished.stages if stage.state != "done"), None)
        return f"Stopped before: {title(following)}" if following else "Stopped"
    done, wanted = steps_done(unfinished), steps_wanted(unfinished)
    if stopped != "train_model":
        is_trained = any(stage.stage == "train_model" and stage.state == "done" for stage in unfinished.stages)
        return f"Stopped in: {title(stopped)}" + ("; training is finished and kept" if is_trained else "")
    if not done:
        return "Training stopped before its first logged step"
    return f"Training stopped at step {units.count(done)}" + (f" of {units.count(wanted)}" if wanted else "")


def steps_done(unfinished: UnfinishedRun) -> int:
    """Return the last step that was logged or saved."""
    return max([*unfinished.training.metrics.progress, unfinished.training.checkpoint or 0], default=0)


def steps_wanted(unfinished: UnfinishedRun) -> int | None:
    """Return the steps of the whole training: from its checkpoints, else as planned."""
    return unfinished.training.max_steps or unfinished.planned_steps


def unfinished_figures(unfinished: UnfinishedRun) -> list[Figure]:
    """Return the numbers of the band."""
    state, wanted, done = unfinished.training, steps_wanted(unfinished), steps_done(unfinished)
    known = state.metrics.progress.get(done)
    loss, held_out = (_last(state.metrics.curves.get(name)) for name in ("loss", "eval_loss"))
    saved = "from the beginning" if state.checkpoint is None else f"step {units.count(state.checkpoint)}"
    of_all = units.share(done, wanted) if wanted else ""
    found = [
        Figure("Optimizer steps", units.count(done), f"{of_all} of {units.count(wanted)}" if of_all else ""),
        Figure("Last training loss", units.significant(loss)),
        Figure("Last held-out loss", units.significant(held_out)),
        Figure("Training resumes from", saved, "nothing before it is repeated" if state.checkpoint else ""),
    ]
    if known and known.seconds:
        found.append(Figure("Trained for", hours(known.seconds), units.count(known.tokens, "token")))
    return found


def last_losses(unfinished: UnfinishedRun, rows: int = 5) -> list[tuple[str, str]]:
    """Return the last training losses as text, the newest last."""
    curve = unfinished.training.metrics.curves.get("loss", Curve())
    return [(units.count(step), units.plain(value)) for step, value in curve.points[-rows:]]


def _last(curve: Curve | None) -> float | None:
    return curve.points[-1][1] if curve and curve.points else None


def _as_facts(unfinished: UnfinishedRun) -> RunPageFacts:
    """Return the facts that the charts draw; all others are empty."""
    metrics = unfinished.training.metrics
    return nothing_but(
        unfinished.run,
        unfinished.id,
        curves=metrics.curves,
        progress=metrics.progress,
        rates=metrics.rates,
    )


def write_page(found: dict[str, Any], work: str, command: str, name: str) -> None:
    """Write the page of one unfinished run into its folder and print a line.

    Args:
        found: where its stages' results and logs are, see :func:`gather_unfinished_run`.
        work: the folder of resumable state.
        command: the command that continues the run.
        name: of the page.
    """
    try:
        identity = identity_of(found)
    except (SnaketuneError, ImportError) as error:
        print(f"{found['run']}: the state of its training is not known here: {error}", flush=True)
        identity = None
    unfinished = gather_unfinished_run(found, Path(work) / "runs" / identity if identity else None, command)
    if unfinished is None:
        print(f"{found['run']}: not started yet.", flush=True)
        return
    page = Path(found["folder"]) / name
    write_bytes(page, render_unfinished(unfinished).encode())
    print(f"{found['run']}: {unfinished_headline(unfinished)}. {page}", flush=True)
