"""The sections ``data``, ``dedupe``, ``split`` and ``tokens``: from the raw records to token ids."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from snaketune.config.schema_model import Section, as_list
from snaketune.config.schema_sources import Sources


class DataConfig(Section):
    """The raw data and how its records are read."""

    sources: Sources = Field(
        ...,
        min_length=1,
        description="Files, folders or globs, relative to the working directory; the file type is detected (JSON "
        "lines, a JSON array, CSV, Parquet, Arrow, also compressed or in an archive); hf://owner/name; "
        "s3://bucket/path (extra `storage`); or objects `{path, name, format, columns, split, config, weight, "
        "max_records}`; see docs/sources.md. `builtin:quickstart`, `builtin:pairs` and `builtin:labels` are the "
        "embedded examples.",
    )
    max_records: int | None = Field(
        None, ge=1, description="Maximum number of records of all sources together, as a seeded sample."
    )
    seed: int = Field(0, ge=0, description="Seed of the samples of `max_records` and `weight`.")
    format: Literal["auto", "messages", "sharegpt", "preference", "instruction", "prompt_completion", "text"] = Field(
        "auto",
        description="How records are read; `auto` decides for each source from its first records and says why.",
    )
    columns: dict[str, str] = Field(
        {},
        description="Your columns for the fields of a record, e.g. {prompt: question, completion: answer}; nested "
        "values are written `answers.text[0]`. Every named column is used, or the run stops; docs/data.md lists the "
        "fields.",
    )
    ignore: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [], description="Columns, or keys such as `messages[].name`, to leave out on purpose."
    )
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        {},
        description="Your names for roles, e.g. {guest: user, clerk: assistant}, in addition to the usual ones.",
    )
    strip: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [], description="Markers removed from the end of each text, e.g. a model's <|endoftext|>."
    )
    system_prompt: str | None = Field(None, description="System message for conversations without one.")
    max_bad_fraction: float = Field(
        0.05, ge=0, le=1, description="The run stops when more than this fraction of lines is quarantined."
    )
    shards: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="Jobs that share reading, deduplication and tokenisation, for several machines; `auto` makes one "
        "per 4 GiB of sources. Their number neither changes a byte of the result nor reruns anything.",
    )


class DedupeConfig(Section):
    """Removal of duplicates: of each cluster, the record that comes first in the sources is kept."""

    exact: bool = Field(
        True,
        description="Remove records equal to an earlier one: every character counts, including white space and case.",
    )
    ignore_case: bool = Field(False, description="With `exact`: ignore case.")
    near: bool = Field(
        False,
        description="Remove near-duplicates of an earlier record: white space, Unicode forms and case are ignored, but "
        "never the indentation of lines. Not for records that are similar by design: short ones made from a template "
        "differ in one word and would be removed.",
    )
    threshold: float = Field(
        0.8,
        ge=0.3,
        le=1,
        description="With `near`: Jaccard similarity of word n-grams above which a record is removed.",
    )
    num_perm: int = Field(
        125,
        ge=16,
        le=1024,
        description="With `near`: MinHash values per record; more values miss fewer pairs and take longer.",
    )
    ngram: int = Field(
        5,
        ge=1,
        le=16,
        description="With `near`: words per n-gram; texts with fewer than 4 times as many words are compared by "
        "characters.",
    )


class SplitConfig(Section):
    """The held-out split."""

    test_size: float = Field(
        0.05, ge=0, lt=1, description="Fraction of prompts held out for evaluation; 0 trains on everything."
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of held-out prompts.")
    stratify: bool = Field(
        False,
        description="Apply the fraction to each source, and hold out at least one prompt of every source that has two.",
    )
    max_similarity: float | None = Field(
        0.5,
        ge=0.2,
        le=0.8,
        description="Training records with this Jaccard similarity to a held-out one are dropped and counted; null "
        "disables the search. Equal prompts are never on both sides.",
    )
    max_alike: int | None = Field(
        10,
        ge=1,
        description="With `max_similarity`: if more training records than this are similar to a held-out one, they "
        "count as similar by design, as from a template: they are kept and counted; null drops them, too.",
    )
    decontaminate: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [],
        description="Files of evaluation text (every string in the records of any container that `data.sources` reads; "
        ".txt: every line), globs, or folders, of which the test or validation split is used; training records that "
        "contain some of it are dropped and counted.",
    )


def _as_day(value: Any) -> str:
    """Return a date, quoted or as YAML reads it, as YYYY-MM-DD."""
    text = value.isoformat() if isinstance(value, date) else value
    try:
        day = date.fromisoformat(text)
    except (TypeError, ValueError):
        raise PydanticCustomError("date", "must be a day such as 2026-01-31") from None
    return day.isoformat()


class TokensConfig(Section):
    """From text to token ids: template, loss mask, length and packing."""

    chat_template: str | None = Field(
        None,
        description="null uses the model's own template; `chatml` or `plain` are built in; a path ending in .jinja is "
        "read; a value with {{ is itself a template.",
    )
    assistant_only_loss: bool = Field(
        True, description="Train on the assistant's tokens only; false also trains on prompts."
    )
    reasoning: Literal["auto", "train", "drop"] = Field(
        "auto",
        description="Reasoning of answers (`reasoning_content` or `<think>` text): `auto` trains it if the chat "
        "template writes it, and counts it if not; `train` leaves out records whose reasoning the template omits; "
        "`drop` removes it.",
    )
    date: Annotated[str, BeforeValidator(_as_day)] = Field(
        "2026-01-01",
        description="The date that chat templates see as today (`strftime_now`), as YYYY-MM-DD: with the clock's date, "
        "the same data would give other tokens tomorrow.",
    )
    max_length: Literal["auto"] | Annotated[int, Field(ge=8)] = Field(
        "auto",
        description="Longest document in tokens and length of a packed row; `auto` derives it from the data. The two "
        "answers of a pair (`train.method: dpo`), each with its prompt, count together.",
    )
    coverage: float = Field(
        1.0, gt=0, le=1, description="With `auto`: fraction of records and of tokens that must fit in full."
    )
    pad_to_multiple_of: int = Field(64, ge=1, le=4096, description="`auto` rounds up to a multiple of this (tokens).")
    on_too_long: Literal["drop", "truncate", "error"] = Field(
        "drop",
        description="What happens to longer records: dropped and counted; cut at the end and counted (dropped if no "
        "token of an answer would be left); or the run stops. Plain texts (`format: text`) are cut into rows of "
        "max_length except with `error`, and every token is trained once.",
    )
    max_dropped_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The run stops if more than this fraction of the records or tokens is not trained on, because of "
        "their length or because they could not be tokenised. Records that `coverage` gives up are exempt.",
    )
    packing: bool = Field(
        True,
        description="Fill each row with several documents, if the model can separate them; false pads one document per "
        "row.",
    )
