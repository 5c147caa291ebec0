"""Small files without a record in ``work``: the provenance notes beside them reveal edits.

``work`` may be removed, or stay behind when results are copied. ``.made.json`` goes with the results: a fact without a
record whose digest differs from the note was edited or damaged, even if it is readable.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.core.digests import DigestCache
from snaketune.core.outputs import has_record
from snaketune.facts.data_facts import DEDUPLICATION, PACKING, READING, RIGHTSIZE, SPLIT
from snaketune.facts.evaluation_facts import EVALUATION
from snaketune.facts.fact_files import FactFile
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO
from snaketune.facts.merge_facts import MERGED
from snaketune.facts.plan_facts import PLAN
from snaketune.facts.run_facts import HISTORY, RUN
from snaketune.facts.shapes import ShapeError, shaped
from snaketune.facts.token_facts import TOKENS
from snaketune.facts.training_facts import TRAINED
from snaketune.workflow.results.adopting import GROUPS
from snaketune.workflow.results.provenance_notes import ResultDigests, drop_notes, proofs_in

# What the facts of a run have to look like, by name; and the manifests of stages, by stage.
RECORDED_FILES: dict[str, FactFile[Any]] = {
    "adapter.manifest.json": TRAINED,
    "evaluation.json": EVALUATION,
    "evaluation_info.json": EVALUATION_INFO,
    "history.json": HISTORY,
    "merge.json": MERGED,
    "plan.json": PLAN,
    "rightsize.json": RIGHTSIZE,
    "run.json": RUN,
    "run_info.json": RUN_INFO,
}
STAGE_MANIFESTS: dict[str, FactFile[Any]] = {
    "dedupe_records": DEDUPLICATION,
    "pack_rows": PACKING,
    "read_records": READING,
    "split_records": SPLIT,
    "tokenize_records": TOKENS,
}


def has_form(path: Path) -> bool:
    """Tell whether a JSON file is an object with the parts that its readers expect; any object where none are known."""
    form = (
        STAGE_MANIFESTS.get(path.parent.parent.name) if path.name == "manifest.json" else RECORDED_FILES.get(path.name)
    )
    try:
        document = read_json(path)
        return isinstance(document, dict) and (form is None or bool(shaped(document, form.kind)))
    except (ValueError, ShapeError):
        return False


def unrecorded_facts(wanted: Iterable[str], work: str | Path) -> list[Path]:
    """Return the JSON files without a record that a configuration asks for, and the facts beside them."""
    paths = dict.fromkeys(path for path in map(Path, wanted) if path.suffix == ".json" and path.name != "facts.json")
    beside = {folder / name: None for folder in dict.fromkeys(path.parent for path in paths) for name in RECORDED_FILES}
    return [path for path in {**paths, **beside} if path.is_file() and not has_record(path, work)]


def contradicted_groups(folder: Path, work: str | Path) -> dict[Path, list[str]]:
    """Return the files in ``folder`` that differ from the notes, each with the names of all outputs of its job.

    Files with a record are left to it.
    """
    groups = {folder / name: list(names) for names in GROUPS for name in names}
    candidates = [path for path in groups if path.is_file() and not has_record(path, work)]
    return {path: groups[path] for path in _contradicted(folder, candidates, work)}


def drop_stale_notes(folder: Path, work: str | Path) -> None:
    """Remove notes of jobs that have rerun since, in a workflow that was killed before it updated them.

    What has a record is what its last job wrote.
    """
    names = {name for names in GROUPS for name in names}
    recorded = [path for name in names if (path := folder / name).is_file() and has_record(path, work)]
    if stale := {path.name for path in _contradicted(folder, recorded, work)}:
        drop_notes(folder, stale)


def _contradicted(folder: Path, paths: Iterable[Path], work: str | Path) -> list[Path]:
    """Return those of ``paths``, in ``folder``, whose digest differs from the note."""
    if not (paths := list(paths)):
        return []  # the usual case, for which no digests are read
    noted = _noted(folder)
    contents = ResultDigests(Path(), DigestCache(Path(work) / "digests.json"))
    return [path for path in paths if noted.get(path.name, found := contents.of(str(path))) != found]


def _noted(folder: Path) -> dict[str, str]:
    """Return the noted digests of the files that jobs wrote into ``folder`` itself, by name."""
    outputs = [(Path(path), digest) for proof in proofs_in(folder) for path, digest in proof.outputs.items()]
    return {path.name: digest for path, digest in outputs if path.parent.name in ("", folder.name)}
