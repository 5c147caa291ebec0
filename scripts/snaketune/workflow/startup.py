"""Start and end of a workflow: checks, cleaning, and a record of what it uses."""

from pathlib import Path

from snaketune.core.disk_space import LITTLE_BYTES, require_room, usual_places
from snaketune.core.errors import say
from snaketune.storage.disks import ANY_DISK
from snaketune.train.checkpoints.kept_trainings import drop_kept, keep_trainings
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.results.adopting import adopt_outputs
from snaketune.workflow.results.damage import heal
from snaketune.workflow.results.leftovers import drop_shard_files, sweep
from snaketune.workflow.results.owners import claim, name_of_owner, owners_of
from snaketune.workflow.results.pruning import used_paths
from snaketune.workflow.results.unrecorded import drop_stale_notes
from snaketune.workflow.write_checks import check_clock, outside_notes, try_folder, unwritable_notes


class WorkflowFolders:
    """The folders that a workflow works in.

    Args:
        job_table: the configured runs.
        work: the folder of resumable state.
        config: the name of the configuration file, which is part of the owner's name.

    Attributes:
        folders: those of the results that the configuration asks for.
        notes: notes on folders outside the project or not writable.
    """

    def __init__(self, job_table: JobTable, work: Path, config: str):
        self._results, self._work = Path(job_table.results), work
        self._config, self._uses = config, used_paths(*job_table.in_use())
        self._wanted, self._comparison = job_table.wanted_files(), job_table.page("compare")
        self.folders = list(dict.fromkeys(Path(path).parent for path in self._wanted))
        self._runs = [Path(job_table.run_path(run, "")) for run in job_table.runs]
        self._scratch = None if job_table.scratch == ANY_DISK else job_table.scratch
        folders = {"paths.results": job_table.results, "paths.scratch": self._scratch, "work": str(work)}
        self.notes = [
            *outside_notes(folders, Path.cwd()),
            *unwritable_notes(job_table.results, "paths.results"),
            *unwritable_notes(work, "work"),
        ]

    def owner(self) -> str:
        """Return the name of this project and configuration among the owners of the results."""
        return name_of_owner(self._work, Path.cwd(), self._config)

    def heal(self, verify: bool) -> None:
        """Find results that changed since they were made, before the DAG is built.

        Raises:
            DataError: if something damaged cannot be repaired.
        """
        own = self.owner()
        owners = [owner for owner in owners_of(self._results) if owner.project and owner.name != own]
        others = [owner for owner in owners if not owner.is_at(Path.cwd(), self._config)]
        shared = {f"{self._results}/{variant}" for owner in others for variant in owner.made}
        heal([*self._wanted, self._comparison], self._work, verify, shared)

    def begin(self) -> None:
        """Check that results can be written, and clean up.

        Raises:
            ConfigError: if nothing can be written there, or the clock went backwards.
            DiskFullError: if a disk, that of temporary files among them, is full.
        """
        folders = {str(Path(path).parent) for path in self._wanted} | {str(self._work), str(self._work / "runs")}
        check_clock([*self._wanted, *sorted(folders)])
        for place in usual_places():
            require_room(place, LITTLE_BYTES, "the workflow")
        for note in [*try_folder(str(self._results), "paths.results"), *try_folder(str(self._work), "work")]:
            say(note)
        self.tidy()
        keep_trainings(self._runs)

    def drop_shard_files(self) -> None:
        """Remove shard files that a killed workflow left, once everything that reads them is finished."""
        drop_shard_files(self.folders)

    def tidy(self) -> None:
        """Remove leftovers of killed jobs, and record what this project uses and the provenance of its results."""
        sweep(self._results, self._work, self._scratch)
        drop_kept(self._runs)
        if self._results.is_dir():
            for folder in [self._results, *self.folders]:
                adopt_outputs(folder, self._work)
                drop_stale_notes(folder, self._work)
            claim(self._results, self.owner(), Path.cwd(), self._config, self._uses)
