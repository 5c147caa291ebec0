"""The stage tokenize_records: its input files and its output files."""

from dataclasses import dataclass
from pathlib import Path

from snaketune.core.atomic import write_bytes, writing
from snaketune.core.manifest import write_manifest
from snaketune.data.sources.source_names import names_in
from snaketune.data.tokens.chunk_tokenizing import Recipe
from snaketune.data.tokens.left_out_records import left_out_at_tokenising
from snaketune.data.tokens.tokenizing import tokenize_splits
from snaketune.data.tokens.tokenizing_account import warnings_of
from snaketune.settings.data_slices import StageSettings, TokenizingSlice


@dataclass(frozen=True, slots=True)
class TokenizingJob:
    """The stage: files and settings, by the names of the flags that ``tokenize_records.py`` documents."""

    spec: str
    code: str
    cfg: TokenizingSlice
    settings: StageSettings
    train: Path
    eval: Path
    model: Path
    stage: Path
    parts: list[Path]
    output_train: Path
    output_eval: Path
    template: Path
    dropped: Path
    manifest: Path


def tokenize_records(job: TokenizingJob) -> None:
    """Tokenise the training and the held-out records with the model's tokenizer."""
    recipe = Recipe.of_slice(job.cfg, job.model, names_in(job.stage))
    files = {"train": (str(job.train), str(job.output_train)), "eval": (str(job.eval), str(job.output_eval))}
    with writing(job.dropped) as dropped:
        facts = tokenize_splits(files, recipe, dropped, job.settings["threads"], job.parts)
    for line in warnings_of(facts) + left_out_at_tokenising(facts["splits"]):
        print(line)
    write_bytes(job.template, (recipe.template or "").encode())
    outputs = [job.output_train, job.output_eval, job.template, job.dropped]
    write_manifest(job.manifest, "tokenize_records", outputs, facts)
