"""A source of data as an object of the configuration."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_serializer
from pydantic_core import PydanticCustomError

from snaketune.config.schema_model import Section, as_list

Format = Literal["auto", "messages", "sharegpt", "preference", "instruction", "prompt_completion", "text"]


class SourceConfig(Section):
    """A source with its own settings; a plain string is a source with only a path."""

    path: str = Field(..., min_length=1, description="As for a plain source: a file, folder, glob or address.")
    name: str | None = Field(None, min_length=1, description="Its name in messages and in the manifest.")
    format: Format | None = Field(None, description="As `data.format`, for this source only.")
    columns: dict[str, str] | None = Field(None, description="As `data.columns`, for this source only.")
    split: str | None = Field(
        None, min_length=1, description="Which split of a folder, a saved data set or a data set of the hub; `train`."
    )
    config: str | None = Field(None, min_length=1, description="Which configuration of a data set of the hub.")
    weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="How often its training records are seen in an epoch: 2 is twice, 0.5 a seeded half of them, 1.5 "
        "all and a seeded half again. Held-out records are never repeated.",
    )
    max_records: int | None = Field(
        None,
        ge=1,
        description="Maximum number of its records, as a seeded sample that changes little when records are added.",
    )

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """Return what differs from the defaults: a key that is added later changes no identity."""
        fields = type(self).model_fields.items()
        return {name: getattr(self, name) for name, field in fields if getattr(self, name) != field.default}


def _as_source(value: Any) -> Any:
    """Return a source as its plain path where it has nothing else, with errors in words."""
    if not isinstance(value, dict):
        if isinstance(value, str | SourceConfig):
            return value
        raise PydanticCustomError("source", "a source is a path, or keys of which `path` is one")
    known = list(SourceConfig.model_fields)
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
            raise PydanticCustomError("source", "{key} is not a key of a source, {hint}", {"key": key, "hint": hint})
    try:
        source = SourceConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place, reason = ".".join(map(str, first["loc"])), first["msg"][0].lower() + first["msg"][1:]
        raise PydanticCustomError("source", "{place}: {reason}", {"place": place, "reason": reason}) from None
    return source.path if source == SourceConfig(path=source.path) else source


def _as_sources(value: Any) -> Any:
    return [value] if isinstance(value, dict) else as_list(value)


Sources = Annotated[list[Annotated[str | SourceConfig, BeforeValidator(_as_source)]], BeforeValidator(_as_sources)]


def path_of(source: str | SourceConfig) -> str:
    """Return the path, pattern or address of a source."""
    return source if isinstance(source, str) else source.path


def options_of(source: str | SourceConfig) -> dict[str, Any]:
    """Return what a source says of how its records are read and used, without what finding its files uses up."""
    if isinstance(source, str):
        return {}
    wanted = ("name", "format", "columns", "weight", "max_records")
    return {key: value for key, value in source.model_dump(mode="json").items() if key in wanted}
