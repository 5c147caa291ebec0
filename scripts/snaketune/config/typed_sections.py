"""The sections of the configuration as plain types for the stages, which must not import the models.

A stage that imported the models would run again when the description of any key changes, and each job would load
pydantic. The modules of ``snaketune.settings`` have names and types alone and are generated from the models.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from snaketune.config.schema import RunConfig
from snaketune.workflow.stages import OPERATIONAL

LINE_LENGTH = 120
# No stage gets this section: rules put its paths where they belong.
NOT_HANDED_ON = ("paths",)
HEADER = '''"""The section `{name}` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import {imports}
'''


def section_modules() -> dict[str, str]:
    """Return the text of the module of each section, by the module's name."""
    modules = {f"{name}_section": _module(name, _model_in(field.annotation)) for name, field in _sections().items()}
    return {**modules, "operational": _operational()}


def _sections() -> dict[str, Any]:
    return {name: field for name, field in RunConfig.model_fields.items() if name not in NOT_HANDED_ON}


def _module(name: str, model: type[BaseModel]) -> str:
    classes = [_class(one, name if one is model else None) for one in _nested(model)]
    body = "\n\n".join(classes)
    imports = [word for word in ("Any", "Literal") if f"{word}[" in body or f": {word}" in body]
    return f"{HEADER.format(name=name, imports=', '.join([*imports, 'TypedDict']))}\n\n{body}"


def _operational() -> str:
    """Return the module of what changes how a training works, but not its result."""
    fields = RunConfig.model_fields["train"].annotation
    train = {name: field.annotation for name, field in _model_in(fields).model_fields.items()}
    lines = [
        f"    {name}: {_source(kind)}"
        for name, kind in {**train, "scratch": str | None, "num_nodes": int}.items()
        if name not in train or f"train.{name}" in OPERATIONAL
    ]
    docstring = '    """Operational settings of a training: devices, loading of rows, checkpoints, limits."""'
    head = HEADER.replace("The section `{name}` as stages get it.", "Settings that change no result.")
    imports = head.format(name="", imports="Literal, TypedDict")
    return "\n".join([f"{imports}\n\nclass Operational(TypedDict, total=False):", docstring, "", *lines, ""])


def _nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model after those that its fields hold."""
    found: dict[type[BaseModel], None] = {}
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found.update(dict.fromkeys(_nested(inner)))
    return [*found, model]


def _class(model: type[BaseModel], section: str | None) -> str:
    """Return one type: a section's slice lacks the keys that cannot matter, and its operational ones."""
    fields = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if section is None or f"{section}.{name}" not in OPERATIONAL
    }
    what = f"The keys of `{section}` that decide results; a slice has those its stage depends on." if section else ""
    docstring = what or (model.__doc__ or "").strip().splitlines()[0]
    lines = [f"    {name}: {_broken(kind, 4, len(name) + 2)}" for name, kind in fields.items()]
    return "\n".join([f"class {class_name(model)}(TypedDict, total=False):", f'    """{docstring}"""', "", *lines, ""])


def class_name(model: type[BaseModel]) -> str:
    """Return what the plain type of a model is called."""
    return f"{model.__name__.removesuffix('Config')}Section"


def _broken(kind: Any, indent: int, before: int) -> str:
    """Return a type as source, over several lines where one is too short."""
    text = _source(kind)
    kind = _plain(kind)
    if indent + before + len(text) <= LINE_LENGTH or not get_args(kind) or get_origin(kind) in (Union, UnionType):
        return text
    inner = " " * (indent + 4)
    if get_origin(kind) is Literal:
        items = [f"{inner}{_quoted(one)}," for one in get_args(kind)]
    else:
        items = [f"{inner}{_broken(one, indent + 4, 0)}" for one in get_args(kind)]
    return "\n".join([f"{text.partition('[')[0]}[", *items, f"{' ' * indent}]"])


def _source(kind: Any) -> str:
    kind = _plain(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(_source(one) for one in arguments))
    if origin is Literal:
        return f"Literal[{', '.join(_quoted(one) for one in arguments)}]"
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(_source(one) for one in arguments)}]"
    if kind in (Any, NoneType):
        return {Any: "Any", NoneType: "None"}[kind]
    return class_name(kind) if issubclass(kind, BaseModel) else kind.__name__


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _models_in(kind: Any) -> list[type[BaseModel]]:
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [] if get_origin(kind) is Literal else [model for one in get_args(kind) for model in _models_in(one)]


def _model_in(kind: Any) -> type[BaseModel]:
    return _models_in(kind)[0]
