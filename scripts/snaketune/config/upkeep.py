"""Care of the results folder between jobs: damage noticed, one workflow at a time, `latest` right."""

import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from snaketune.card.facts import KINDS
from snaketune.card.placing import place_card
from snaketune.common.atomic import write_json
from snaketune.common.canonical import read_json
from snaketune.common.digests import DigestCache
from snaketune.common.errors import ConfigError
from snaketune.common.locks import try_lock
from snaketune.config.finished import UNFINISHED, is_finished
from snaketune.config.resolve import ResolvedRun
from snaketune.plan.summary import describe


def lock_or_explain(path: str | Path) -> IO[str]:
    """Take the lock of this working directory and return it; keep it open as long as the workflow runs.

    Raises:
        ConfigError: naming the process that holds it.
    """
    lock, holder = try_lock(path)
    if lock is None:
        raise ConfigError(
            f"another workflow (process {holder}) is working in this folder: wait until it ends, or stop it with"
            f" `kill {holder}`."
        )
    return lock


def drop_damaged_manifests(manifests: list[str], cache: str | Path) -> None:
    """Remove the manifest of every stage whose files were deleted or changed, so that the stage is rebuilt.

    A file is read only when it is newer than its manifest, which is written last; reading everything at each
    start would take minutes for large models. Stages check full digests again before they use a file.
    """
    digests = DigestCache(cache)
    for manifest in map(Path, manifests):
        if manifest.is_file() and (bad := _damaged(manifest, digests)):
            print(
                f"{manifest.parent / bad} was deleted or changed since it was made: it is rebuilt.",
                file=sys.stderr,
                flush=True,
            )
            manifest.unlink()
    digests.save()


def _damaged(manifest: Path, digests: DigestCache) -> str | None:
    made = manifest.stat().st_mtime_ns
    try:
        files = read_json(manifest)["files"]
    except (ValueError, KeyError):
        return manifest.name
    for name, entry in files.items():
        file = manifest.parent / name
        if not file.is_file() or (stat := file.stat()).st_size != entry["bytes"]:
            return name
        if stat.st_mtime_ns > made and digests.digest(file) != entry["digest"]:
            return name
    return None


def point_latest(folder: Path, current: str) -> None:
    """Point ``folder/latest`` at the run folder ``current`` when its report exists."""
    link = folder / "latest"
    if not (folder / current / "report.html").is_file():
        return
    if link.is_symlink() and str(link.readlink()) == current:
        return
    partial = folder / f".latest-{os.getpid()}"
    partial.symlink_to(current)
    os.replace(partial, link)


def place_cards(folder: Path) -> None:
    """Put the cards of the run in ``folder`` back into the folders that were made anew since they were written."""
    for kind in KINDS:
        place_card(folder / f"{kind}_card.md", folder / kind)


def drop_unfinished(files: list[str]) -> None:
    """Remove the page of an unfinished run when all files that a run ends in are there."""
    if is_finished(files):
        Path(files[0]).with_name(UNFINISHED).unlink(missing_ok=True)


def show_plan(path: Path, name: str) -> None:
    """Print the plan of a run, as from now; nothing when there is none, which a sentence of its own has explained."""
    if path.is_file():
        print(f"\n{describe(read_json(path), name, datetime.now().astimezone())}", flush=True)


_SENTENCE = re.compile(r"^(?:Config|Data|Plan|Training)Error: .*", re.MULTILINE)
_LOG = re.compile(r"^\s+log: (\S+)", re.MULTILINE)


def explain_failure(workflow_logs: list[str], command: str) -> str:
    """Return what to read and what to do after a failure: the jobs' own sentences, their logs, the next command.

    Args:
        workflow_logs: Snakemake's logs of this invocation, which name the log of each failed job.
        command: the command that failed.
    """
    text = "\n".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in workflow_logs)
    logs = [Path(name) for name in dict.fromkeys(_LOG.findall(text[text.find("Error in rule") :]))]
    lines = [""]
    for log in filter(Path.is_file, logs):
        sentences = _SENTENCE.findall(log.read_text(encoding="utf-8", errors="replace"))
        lines += [*sentences[-1:], f"Log: {log}"]
    lines += ["How far each run came, as a page: snakemake --cores 1 report"]
    return "\n".join([*lines, f"What is finished is kept. After mending the cause: {command}"])


def shards_before(path: Path) -> dict[str, int]:
    """Return the numbers of shards by stage and id that earlier workflows used."""
    return read_json(path) if path.is_file() else {}


def remember_shards(path: Path, counts: dict[str, int]) -> None:
    """Keep the numbers of shards that this workflow uses."""
    known = shards_before(path)
    if known | counts != known:
        write_json(path, known | counts)


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
    if not path.is_file() or read_json(path) != value:
        write_json(path, value)
