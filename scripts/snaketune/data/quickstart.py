"""The embedded quickstart: spoken requests and the tool calls that answer them, from a seed alone.

A world of seven household tools is enough for a model small enough to train on one processor core to learn
something that can be checked exactly. The world is cut in two by what is asked for (a digest of the tool and its
arguments decides): the *task* part becomes ``request → JSON`` records, raw JSONL as a user might have written
it, and the *world* part becomes what the base model reads before: the same language in another notation, never
a request followed by JSON. Whatever a tuned model gets right on held-out requests it learned in fine-tuning.

Nothing here needs more than the standard library, and the same arguments give the same bytes on every machine:
of :mod:`random` only ``random()`` is used, the one method whose sequence Python guarantees across versions.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product, zip_longest
from random import Random
from typing import TypeVar

WordOrNumber = str | int
Choice = TypeVar("Choice")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = _words(
    "Ada Alan Barbara Dennis Donald Edsger Frances Grace Guido Hedy Jean John Katherine Ken Leslie Linus"
    " Margaret Niklaus Radia Tim"
)
CITIES = _words(
    "Accra Athens Berlin Bogota Cairo Delhi Dublin Geneva Hanoi Kyoto Lagos Lima Lisbon Oslo Paris Quito Rome"
    " Seoul Sofia Tokyo Tunis Turin Vienna Zurich"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday today tomorrow")
GOODS = _words("apples batteries bread candles coffee flour honey lemons milk oats onions paper rice salt soap tea")
ROOMS = _words(
    "attic balcony bathroom bedroom cellar garage garden hallway kitchen library lobby nursery office pantry"
    " porch studio"
)
CHORES = (
    "back up the laptop",
    "book a table",
    "call the bank",
    "charge the bike",
    "clean the oven",
    "empty the bin",
    "feed the cat",
    "fix the fence",
    "fold the laundry",
    "order the parts",
    "pack the bag",
    "paint the door",
    "pay the rent",
    "print the map",
    "renew the passport",
    "return the books",
    "send the invoice",
    "sign the form",
    "sort the mail",
    "sweep the floor",
    "visit the dentist",
    "walk the dog",
    "wash the car",
    "water the plants",
)


@dataclass(frozen=True)
class Intent:
    """One thing that can be asked for: a tool, the values of its arguments and the ways people ask."""

    tool: str
    arguments: dict[str, Sequence[WordOrNumber]]
    phrasings: tuple[str, ...]


INTENTS = (
    Intent(
        "timer",
        {"minutes": range(1, 60), "label": GOODS},
        (
            "set a timer for {minutes} minutes for the {label}",
            "{minutes} minute {label} timer please",
            "start a {minutes} minute timer called {label}",
            "tell me in {minutes} minutes to check the {label}",
        ),
    ),
    Intent(
        "weather",
        {"city": CITIES, "day": DAYS},
        (
            "what is the weather in {city} on {day}",
            "will it rain in {city} {day}",
            "weather for {day} in {city}",
            "{day} forecast for {city}",
        ),
    ),
    Intent(
        "meeting",
        {"with": PEOPLE, "day": DAYS, "hour": range(8, 21)},
        (
            "book a meeting with {with} {day} at {hour}",
            "meet {with} at {hour} on {day}",
            "schedule {with} for {day} {hour} o'clock",
            "put {with} in my calendar {day} at {hour}",
        ),
    ),
    Intent(
        "shopping",
        {"item": GOODS, "count": range(1, 25)},
        (
            "add {count} {item} to the shopping list",
            "we need {count} {item}",
            "buy {count} {item}",
            "put {item} on the list, {count} of them",
        ),
    ),
    Intent(
        "light",
        {"room": ROOMS, "level": range(0, 101, 5)},
        (
            "set the {room} light to {level} percent",
            "{room} light {level} percent please",
            "dim the light in the {room} to {level}",
            "lights at {level} in the {room}",
        ),
    ),
    Intent(
        "remind",
        {"what": CHORES, "day": DAYS},
        (
            "remind me to {what} on {day}",
            "{day} I have to {what}",
            "do not let me forget to {what} {day}",
            "reminder for {day}: {what}",
        ),
    ),
    Intent(
        "train",
        {"from": CITIES, "to": CITIES, "day": DAYS},
        (
            "find a train from {from} to {to} on {day}",
            "{day} train to {to} from {from}",
            "I want to travel from {from} to {to} {day}",
            "tickets {from} to {to} for {day}",
        ),
    ),
)


@dataclass(frozen=True)
class SpokenRequest:
    """A spoken request and the tool call that answers it."""

    prompt: str
    tool: str
    arguments: tuple[tuple[str, WordOrNumber], ...]

    @property
    def completion(self) -> str:
        """The tool call as compact JSON with the tool first: the expected answer of the tuned model."""
        return json.dumps({"tool": self.tool, **dict(self.arguments)}, separators=(",", ":"))

    @property
    def notation(self) -> str:
        """The tool call as the base model knows it: ``timer: minutes 5, label tea``."""
        return f"{self.tool}: " + ", ".join(f"{name} {value}" for name, value in self.arguments)


def quickstart_lines(records: int = 4000, seed: int = 0) -> Iterator[bytes]:
    """Yield the quickstart data as raw JSONL lines, ``{"prompt": .., "completion": ..}``, newline included.

    Real files have blemishes, so this one has some, in known number, for the pipeline to find and account for:
    ``records // 100`` exact copies of earlier lines, and the first ``records // 500`` of the lines that
    :func:`broken_lines` makes. So 4,000 distinct records are 4,045 lines, 40 of them copies and 5 broken.

    Args:
        records: number of distinct good records; at most 24,940 exist.
        seed: which records are drawn and in which order.

    Raises:
        ValueError: if the world has fewer than ``records`` requests.
    """
    rng = Random(seed)
    requests = _draw(records, rng, of_the_world=False)
    good = [_line(prompt=request.prompt, completion=request.completion) for request in requests]
    blemishes = [*_sample(good, records // 100, rng), *islice(broken_lines(requests), records // 500)]
    yield from _shuffled([*good, *blemishes], rng)


def broken_lines(requests: Sequence[SpokenRequest]) -> Iterator[bytes]:
    """Yield one line for each way in which exported data are commonly broken, five in all.

    They are made of the first requests: a truncated upload, a missing field, an empty answer, an answer that is
    null, and a line of an error message that ended up in the file.
    """
    first, second, third, fourth, *_ = requests
    whole = _line(prompt=first.prompt, completion=first.completion)
    yield whole[: len(whole) * 2 // 3] + b"\n"
    yield _line(prompt=second.prompt)
    yield _line(prompt=third.prompt, completion="")
    yield _line(prompt=fourth.prompt, completion=None)
    yield b"export stopped: connection reset by peer\n"


def world_texts(records: int = 3000, seed: int = 1) -> Iterator[str]:
    """Yield what the base model learns: ``records`` texts of two lines about the world part.

    Half of them are a request and its notation, half a notation and its JSON; no text goes from a request to
    JSON, none has a chat marker, and no tool call of these texts occurs in :func:`quickstart_lines`.

    Raises:
        ValueError: if the world has fewer than ``records`` requests.
    """
    for index, request in enumerate(_draw(records, Random(seed), of_the_world=True)):
        if index % 2:
            yield f"{request.notation}\n{request.completion}"
        else:
            yield f"{request.prompt}\n{request.notation}"


def draw_requests(count: int, rng: Random) -> list[SpokenRequest]:
    """Return ``count`` distinct requests of the task part in random order."""
    return _draw(count, rng, of_the_world=False)


def _draw(count: int, rng: Random, of_the_world: bool) -> list[SpokenRequest]:
    """Draw ``count`` distinct requests in random order, as evenly over the intents as their sizes allow."""
    decks = [_shuffled(list(_requests(intent, of_the_world)), rng) for intent in INTENTS]
    dealt = (request for request in chain.from_iterable(zip_longest(*decks)) if request)
    drawn = list(islice(dealt, count))
    if len(drawn) < count:
        raise ValueError(f"the quickstart world has {len(drawn)} requests of this kind, {count} were asked for")
    return _shuffled(drawn, rng)


def _requests(intent: Intent, of_the_world: bool) -> Iterator[SpokenRequest]:
    """Yield every request for ``intent`` whose tool call belongs to the wanted part."""
    for values in product(*intent.arguments.values()):
        if len(set(values)) < len(values):
            continue  # nobody takes a train from a city to itself
        arguments = tuple(zip(intent.arguments, values, strict=True))
        if _belongs_to_world(intent.tool, arguments) == of_the_world:
            for phrasing in intent.phrasings:
                yield SpokenRequest(phrasing.format(**dict(arguments)), intent.tool, arguments)


def _belongs_to_world(tool: str, arguments: tuple[tuple[str, WordOrNumber], ...]) -> bool:
    """Return whether a tool call belongs to the third that only the base model sees in pretraining."""
    digest = hashlib.blake2b(repr((tool, arguments)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 3 == 0


def _line(**fields: str | None) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _shuffled(items: Sequence[Choice], rng: Random) -> list[Choice]:
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def _sample(items: Sequence[Choice], count: int, rng: Random) -> list[Choice]:
    return _shuffled(items, rng)[:count]
