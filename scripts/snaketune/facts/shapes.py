"""Checks that a JSON value has its declared shape, once, where a file is read, instead of wherever it is used.

Shapes are ordinary type hints: ``TypedDict`` for an object with known keys, ``dict[str, X]`` and ``list[X]``, unions,
``Literal`` and the scalars of JSON. What an older version did not write is filled in, so that readers need no check:
an absent optional value becomes None, an absent list or section an empty one.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")
Moment = Annotated[str, "ISO 8601"]
"""A date and time as ISO 8601 has them."""
VALUE_CHARACTERS = 60
# Nothing that is measured is larger; products of such numbers overflow where they are shown.
LARGEST = 1e60
TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


class ShapeError(ValueError):
    """A value without its declared shape; the text names its place, the value and what it has to be."""


def shaped(value: Any, kind: type[T], place: str = "") -> T:
    """Return ``value`` with absent parts filled in.

    Keys that the type does not declare stay as they are: a newer minor version may write more than this one reads.

    Args:
        value: as parsed from JSON.
        kind: the declared type.
        place: the key path of ``value``, for the error.

    Raises:
        ShapeError: at the first part that has another type than declared, or that is missing and has no default.
    """
    return cast(T, _check_of(cast(Any, kind))(value, place))


ShapeCheck = Callable[[Any, str], Any]


@cache
def _check_of(kind: Any) -> ShapeCheck:
    """Return the check of a type; types are few and values many, so each is taken apart once."""
    if kind is Any or kind is object:
        return lambda value, place: value
    if is_typeddict(kind):
        return _section_check(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union_check(arguments)
    if origin in (NotRequired, Required):
        return _check_of(arguments[0])
    if kind == Moment:
        return _moment_check
    if origin is Literal:
        return _literal_check(arguments)
    if origin is dict:
        return _dict_check(arguments[1])
    if origin is list:
        return _list_check(arguments[0])
    return _scalar_check(kind)


def _section_check(kind: Any) -> ShapeCheck:
    hints, left_out = get_type_hints(kind, include_extras=True), kind.__optional_keys__

    def check(value: Any, place: str) -> Any:
        found = {} if value is None else value
        if not isinstance(found, Mapping):
            raise _wrong(value, place, "an object")
        result = dict(found)
        for key, hint in hints.items():
            if key in found or key not in left_out:
                result[key] = _check_of(hint)(found.get(key), f"{place}.{key}" if place else key)
        return result

    return check


def _union_check(arguments: tuple[Any, ...]) -> ShapeCheck:
    checks = [_check_of(one) for one in arguments if one is not NoneType]
    sections = [one for one in arguments if is_typeddict(one)]
    allows_none = NoneType in arguments
    expected = " or ".join(_called(one) for one in arguments)

    def check(value: Any, place: str) -> Any:
        if value is None and allows_none:
            return None
        if len(checks) == 1:
            return checks[0](value, place)
        # An object with all keys of a kind is of that kind: a wrong part is named, not taken for another kind's.
        for section in sections:
            if isinstance(value, Mapping) and section.__required_keys__ <= value.keys():
                return _check_of(section)(value, place)
        for one in checks:
            try:
                return one(value, place)
            except ShapeError:
                continue
        raise _wrong(value, place, expected)

    return check


def _literal_check(allowed: tuple[Any, ...]) -> ShapeCheck:
    def check(value: Any, place: str) -> Any:
        # 1 == True: a flag is no number here.
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise _wrong(value, place, " or ".join(repr(one) for one in allowed))
        return value

    return check


def _dict_check(kind: Any) -> ShapeCheck:
    def check(value: Any, place: str) -> Any:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _wrong(value, place, "an object")
        return {key: _check_of(kind)(one, f"{place}.{key}" if place else str(key)) for key, one in value.items()}

    return check


def _list_check(kind: Any) -> ShapeCheck:
    def check(value: Any, place: str) -> Any:
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise _wrong(value, place, "a list")
        return [_check_of(kind)(one, f"{place}[{number}]") for number, one in enumerate(value)]

    return check


def _scalar_check(kind: Any) -> ShapeCheck:
    accepted = (int, float) if kind is float else (kind,)

    def check(value: Any, place: str) -> Any:
        # A flag is an int to Python, but no number in a fact.
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise _wrong(value, place, TYPE_NAMES.get(kind, kind.__name__))
        if kind in (int, float) and abs(value) > LARGEST:
            raise _wrong(value, place, f"a number below {LARGEST:g}")
        return value

    return check


def _moment_check(value: Any, place: str) -> Any:
    try:
        datetime.fromisoformat(_check_of(str)(value, place))
    except ShapeError:
        raise
    except ValueError:
        raise _wrong(value, place, "a date and time") from None
    return value


def _called(kind: Any) -> str:
    return TYPE_NAMES.get(kind) or TYPE_NAMES.get(get_origin(kind) or dict, "an object")


def _wrong(value: Any, place: str, expected: str) -> ShapeError:
    if value is None:
        return ShapeError(f"{place or 'the document'} is missing (it has to be {expected})")
    text = str(value)
    shown = text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}..."
    return ShapeError(f"{place or 'the document'} is {shown!r}, not {expected}")
