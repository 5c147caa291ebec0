"""Provenance notes beside each result, which distinguish a copy or a restored backup from an outdated result.

Snakemake decides by file times, which ``cp -r``, an archive or a backup loses, and by its records in ``.snakemake``,
which may not be copied along. ``.made.json`` in a folder of results has, by rule, digests of the rule's spec and of the
job's inputs and outputs. If those match and only the times are out of order, the times are corrected.
"""

import os
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_json
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.digests import DigestCache
from snaketune.core.errors import ConfigError, say
from snaketune.core.manifest import listed_files
from snaketune.workflow.snakemake_internals import Snakemake
from snaketune.workflow.write_checks import CLOCK_TOLERANCE

NOTE_FILE = ".made.json"
# The file whose time Snakemake uses for a folder that is an output.
STAMP = ".snakemake_timestamp"
MANIFESTS = ("manifest.json", "adapter.manifest.json", "merged.manifest.json")


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """The identity of a job and of its inputs and outputs.

    Attributes:
        rule: its name.
        wildcards: of the job.
        spec: digest of its spec.
        inputs, outputs: digests by path below the results folder.
        benchmark: path of Snakemake's benchmark file of the job, below the project, which counts as an output with any
            content; empty for none.
    """

    rule: str
    wildcards: Mapping[str, str]
    spec: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    benchmark: str = ""


@dataclass(slots=True)
class ResultDigests:
    """Digests of results; files that a manifest lists are covered by the manifest's digest.

    Attributes:
        root: the results folder.
        digests: of files.
    """

    root: Path
    digests: DigestCache
    _listed: dict[Path, dict[str, str]] = field(default_factory=dict)

    def of(self, name: str, read: bool = False) -> str | None:
        """Return the digest of a file or folder below the root; None for one that is missing.

        Args:
            name: its path below the root.
            read: also read the files that a manifest lists, and return None if one has changed.
        """
        path = self.root / name
        if not path.exists():
            return None
        listed = self._in_manifests(path.parent)
        prefix = f"{path.name}/"
        entries = {file: digest for file, digest in listed.items() if file == path.name or file.startswith(prefix)}
        if not entries:
            return self.digests.folder_digest(path) if path.is_dir() else self.digests.digest(path)
        if read and any(not self._has(path.parent / file, digest) for file, digest in entries.items()):
            return None
        return digest_of(entries, size=16)

    def _has(self, path: Path, digest: str) -> bool:
        return path.is_file() and self.digests.digest(path) == digest

    def _in_manifests(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            manifests = (folder / name for name in MANIFESTS)
            found = [listed_files(path) or {} for path in manifests if path.is_file()]
            self._listed[folder] = {name: entry["digest"] for files in found for name, entry in files.items()}
        return self._listed[folder]


def note_proofs(jobs: Iterable[Any], results: Path, work: Path) -> None:
    """Record the inputs and outputs of Snakemake's finished ``jobs``; print a note if that cannot be written."""
    contents = ResultDigests(results, DigestCache(work / "digests.json"))
    by_folder: dict[Path, dict[str, Any]] = {}
    for job in jobs:
        if proof := _proof_of(job, contents):
            folder = (results / next(iter(proof.outputs))).parent
            facts = {"wildcards": dict(proof.wildcards), "spec": proof.spec, "benchmark": proof.benchmark}
            name = " ".join([proof.rule, *map(str, proof.wildcards.values())])
            by_folder.setdefault(folder, {})[name] = {**facts, "inputs": proof.inputs, "outputs": proof.outputs}
    for folder, proofs in sorted(by_folder.items()):
        try:
            write_json(folder / NOTE_FILE, {**_read(folder), **proofs})
        except OSError as error:
            say(f"{folder / NOTE_FILE} cannot be written ({error.strerror}): a copy of these results may be rebuilt.")
    contents.digests.save()


def _proof_of(job: Any, contents: ResultDigests) -> JobIdentity | None:
    # Ancient inputs never cause a rerun, so their digests need not match either.
    inputs = [file for file in job.input if not getattr(file, "is_ancient", False)]
    names = [[_below(file, contents.root) for file in files] for files in (inputs, job.output)]
    spec, is_temporary = job.params.get("spec"), any("temp" in getattr(file, "flags", ()) for file in job.output)
    if spec is None or is_temporary or not names[1] or None in names[0] or None in names[1]:
        return None
    read, written = ({name: contents.of(name) for name in map(str, some)} for some in names)
    if None in written.values():  # temporary
        return None
    # Temporary inputs are gone by now, which is no reason to rerun anything.
    read = {name: digest for name, digest in read.items() if digest is not None}
    wildcards = {name: str(value) for name, value in job.wildcards_dict.items()}
    spec, benchmark = digest_of(spec, size=16), str(job.benchmark or "")
    return JobIdentity(job.rule.name, wildcards, spec, read, written, benchmark)  # type: ignore[arg-type]


def _below(file: Any, root: Path) -> str | None:
    try:
        return Path(os.path.abspath(file)).relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        return None


def put_in_order(
    folders: Iterable[Path], results: Path, work: Path, spec_of: Callable[[JobIdentity], str | None]
) -> int:
    """Correct the file times of results that are proven to be up to date.

    Args:
        folders: of results in use.
        results: the folder that all of them are in.
        work: the folder of resumable state.
        spec_of: returns the current spec of a rule, or None for a rule that no longer exists.

    Returns:
        How many jobs had proven results with times out of order.
    """
    # In topological order, since correcting the time of an input can make the jobs that read it look outdated.
    proofs = in_order([proof for folder in folders for proof in proofs_in(folder)])
    times, contents, proven = Times(results), None, 0
    latest = time.time_ns() + round(CLOCK_TOLERANCE * 1e9)
    for proof in proofs:
        newest = max((times.of(name) for name in proof.inputs), default=0)
        measured = [os.path.abspath(proof.benchmark)] if os.path.lexists(proof.benchmark) else []
        # Only results that Snakemake would rerun are verified: digests of everything would take minutes at each start.
        late = [name for name in (*proof.outputs, *measured) if times.of(name) < newest]
        if not late or newest > latest:  # a time that is still to come is not passed on: the clock is wrong
            continue
        contents = contents or ResultDigests(results, DigestCache(work / "digests.json"))
        if _holds(proof, contents, spec_of):
            proven += 1
            for name in late:
                times.set(name, newest)
    if contents:
        contents.digests.save()
    return proven


def _holds(proof: JobIdentity, contents: ResultDigests, spec_of: Callable[[JobIdentity], str | None]) -> bool:
    spec = spec_of(proof)
    if spec is None or digest_of(spec, size=16) != proof.spec:
        return False
    found = (contents.of(name, read=True) == digest for name, digest in {**proof.inputs, **proof.outputs}.items())
    return all(found)


class Times:
    """Times of results as Snakemake sees them, in nanoseconds since the epoch; each is read once.

    Args:
        root: the results folder, which names are below if they are not absolute.
    """

    def __init__(self, root: Path):
        self._root, self._known = str(root), dict[str, int]()

    def of(self, name: str) -> int:
        """Return the time of a file or folder, 0 for one that is missing."""
        if name not in self._known:
            try:
                self._known[name] = os.lstat(self._place(name)).st_mtime_ns
            except OSError:
                self._known[name] = 0
        return self._known[name]

    def set(self, name: str, time: int) -> None:
        """Change the time of a file or folder; if that is not permitted, the time stays and the result is rebuilt."""
        try:
            os.utime(self._place(name), ns=(time, time), follow_symlinks=False)
        except OSError as error:
            return say(
                f"{self._place(name)}: its modification time cannot be set ({error.strerror}), so it may be rebuilt."
            )
        self._known[name] = time

    def _place(self, name: str) -> str:
        path = name if name.startswith("/") else f"{self._root}/{name}"
        stamp = f"{path}/{STAMP}"
        return stamp if "." not in name.rpartition("/")[2] and os.path.lexists(stamp) else path


def proofs_in(folder: Path) -> list[JobIdentity]:
    """Return the provenance notes in a folder of results."""
    found = []
    for name, entry in _read(folder).items():
        parts = (entry["wildcards"], entry["spec"], entry["inputs"], entry["outputs"], entry["benchmark"])
        found.append(JobIdentity(name.split(" ", 1)[0], *parts))
    return found


def drop_notes(folder: Path, names: Container[str]) -> None:
    """Remove the notes of the jobs that wrote one of ``names`` into ``folder``."""
    entries = _read(folder)
    kept = {
        job: entry for job, entry in entries.items() if not any(Path(path).name in names for path in entry["outputs"])
    }
    with suppress(OSError):  # a note that cannot be removed stays without effect as long as there are records
        write_json(folder / NOTE_FILE, kept)


def _read(folder: Path) -> dict[str, Any]:
    """Return the well-formed notes in a folder; damaged ones prove nothing."""
    try:
        entries = read_json(folder / NOTE_FILE).items()
        return {name: entry for name, entry in entries if _is_entry(entry)}
    except (OSError, ValueError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("spec", "benchmark")):
        return False
    return all(isinstance(entry.get(key), dict) for key in ("wildcards", "inputs", "outputs"))


def in_order(proofs: list[JobIdentity]) -> list[JobIdentity]:
    """Return proofs in topological order: each after those whose outputs it read."""
    makers = {name: proof for proof in proofs for name in proof.outputs}
    done: dict[int, JobIdentity] = {}

    def add(proof: JobIdentity, above: frozenset[int]) -> None:
        if id(proof) in done or id(proof) in above:  # a cycle can only come from damaged notes
            return
        for name in proof.inputs:
            if name in makers:
                add(makers[name], above | {id(proof)})
        done[id(proof)] = proof

    for proof in proofs:
        add(proof, frozenset())
    return list(done.values())


class _Wildcards(dict[str, str]):
    """Wildcards in the form that rule functions take."""

    __getattr__ = dict.__getitem__


def order_before_jobs(snakemake: Snakemake, folders: Iterable[Path], results: Path, work: Path) -> None:
    """Correct file times after Snakemake has read all rules and before it builds the DAG."""

    def spec_of(proof: JobIdentity) -> str | None:
        spec = snakemake.param_of(proof.rule, "spec")
        try:
            found: str | None = spec(_Wildcards(proof.wildcards)) if callable(spec) else spec
            return found
        except (KeyError, ConfigError):  # a note of a run that is configured no more, in the copy of its folder
            return None

    def order() -> None:
        if count := put_in_order(folders, results, work, spec_of):
            jobs = "a job" if count == 1 else f"{count} jobs"
            say(
                f"the results of {jobs} have file times out of order, as after a copy or from a backup; their digests "
                "prove that they are up to date, so nothing is rebuilt."
            )

    snakemake.before_dag(order)
