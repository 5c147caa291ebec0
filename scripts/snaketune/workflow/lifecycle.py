"""The lifecycle of a working directory around the jobs: one workflow at a time, cards in place, failures explained."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from snaketune.card.placing import CARD_KINDS, place_card
from snaketune.config.resolve import ResolvedRun
from snaketune.core.atomic import write_json
from snaketune.core.cached_state import read_state, write_state
from snaketune.core.canonical import read_json
from snaketune.core.errors import ConfigError, say
from snaketune.core.locks import Lock, try_lock
from snaketune.plan.summary import describe_plan
from snaketune.workflow.results.finished import UNFINISHED, is_finished


def lock_or_explain(path: str | Path) -> Lock:
    """Take the lock of this working directory and return it; it must stay open while the workflow runs.

    Raises:
        ConfigError: naming the process that holds it, or why the lock cannot be taken.
    """
    try:
        lock, holder = try_lock(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): make this folder writable.") from None
    if lock is None:
        stop = f"stop it with `kill {holder}`" if holder.isdigit() else "stop it there"
        raise ConfigError(
            f"another workflow (process {holder}) is working in this folder: wait until it ends, or {stop}."
        )
    return lock


def finish_run(files: list[str], folder: Path) -> None:
    """Copy a run's model cards into the folders that they describe, and remove its page of unfinished runs.

    Args:
        files: all final files of the run.
        folder: its folder; a note is printed if it is not writable.
    """
    try:
        place_cards(folder)
        drop_unfinished(files)
    except OSError as error:
        say(f"{error.filename or folder} cannot be written ({error.strerror}): the cards in {folder} stay as they are.")


def place_cards(folder: Path) -> None:
    """Restore the model cards of the run in ``folder`` in folders that were rebuilt since the cards were written."""
    for kind in CARD_KINDS:
        place_card(folder / f"{kind}_card.md", folder / kind)


def drop_unfinished(files: list[str]) -> None:
    """Remove the page of an unfinished run if all final files exist."""
    page = Path(files[0]).with_name(UNFINISHED)
    if page.exists() and is_finished(files):
        page.unlink(missing_ok=True)


def is_yes(switch: object) -> bool:
    """Tell whether a switch of `--config` is on."""
    return switch is True or str(switch).lower() in ("yes", "true")


def is_no(switch: object) -> bool:
    """Tell whether a switch of `--config` is off, as it is by default."""
    return switch is False or str(switch).lower() in ("no", "false")


def show_plan(path: Path, name: str) -> None:
    """Print the plan of a run with times relative to now; nothing if the plan failed, which was already explained."""
    if path.is_file():
        from snaketune.facts.plan_facts import PLAN

        print(f"\n{describe_plan(PLAN.read(path), name, datetime.now().astimezone())}", flush=True)


_SENTENCE = re.compile(r"^(?:Config|Data|Plan|Training|DiskFull)Error: .*", re.MULTILINE)
_KILLED = re.compile(r"(?:exit status|exit code|died with)\W{0,3}(?:137\b|-9\b|.{0,10}SIGKILL)")
_LOG = re.compile(r"^\s+log: (\S+)", re.MULTILINE)


def explain_failure(
    workflow_logs: list[str], command: str, is_local: bool = False, finished: Mapping[str, bool] = MappingProxyType({})
) -> str:
    """Return what to read and do after a failure: the jobs' own messages, their logs, the next command.

    Args:
        workflow_logs: Snakemake's logs of this invocation, which name the log of each failed job.
        command: the command that failed.
        is_local: whether jobs print to this terminal: a message that was printed last is not repeated.
        finished: of each run that was asked for, whether it is finished; of several each is named.
    """
    text = "\n".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in workflow_logs)
    since = text[text.find("Error in rule") :]
    logs = [Path(name) for name in dict.fromkeys(_LOG.findall(since))]
    was_read = is_local and len(logs) == 1 and "Finished jobid" not in since
    lines = [""]
    for log in filter(Path.is_file, logs):
        sentences = _SENTENCE.findall(log.read_text(encoding="utf-8", errors="replace"))
        lines += [*([] if was_read else sentences[-1:]), f"Log: {log}"]
    if _KILLED.search(text):
        lines += [
            "A job was killed from outside (SIGKILL, status 137). Unless you killed it, the machine ran out of memory: "
            "lower train.per_device_train_batch_size, or give the job more memory; `dmesg` shows which process was "
            "killed."
        ]
    lines += _runs_by_outcome(finished) if len(finished) > 1 else []
    lines += ["To see how far each run got, as a page: snakemake --cores 1 report"]
    return "\n".join([*lines, f"Finished results are kept. Once the cause is fixed, run: {command}"])


def _runs_by_outcome(finished: Mapping[str, bool]) -> list[str]:
    """Return a line with the runs that are finished, and one with the others."""
    groups = {"Finished runs": True, "Unfinished runs": False}
    named = {title: [run for run, is_done in finished.items() if is_done == wanted] for title, wanted in groups.items()}
    return [f"{title}: {', '.join(runs)}." for title, runs in named.items() if runs]


def shards_before(path: Path) -> dict[str, int]:
    """Return the numbers of shards by stage and id in earlier workflows."""
    return read_state(path, lambda count: isinstance(count, int) and count > 0)


def remember_shards(path: Path, counts: dict[str, int]) -> None:
    """Record the numbers of shards that this workflow uses."""
    known = shards_before(path)
    if known | counts != known:
        write_state(path, known | counts)


def write_resolved(path: Path, run: ResolvedRun, sources: list[dict[str, str]], earlier: list[ResolvedRun]) -> None:
    """Write the resolved configuration of a run with the origin of each value, if it is not there already.

    Args:
        path: where to.
        run: the run.
        sources: its sources with their digests.
        earlier: the runs that it starts from.
    """
    value: dict[str, Any] = {"run": run.name, "config": run.flat(), "sources": sources, "notes": list(run.notes)}
    value["earlier"] = {other.name: other.flat() for other in earlier}
    with suppress(OSError, ValueError):
        if read_json(path) == value:
            return
    write_json(path, value)
