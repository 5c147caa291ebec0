"""The embedded examples of preferences: the requests of the quickstart with good and bad answers.

A bad answer is one that a half-trained model gives: the call in the notation that the base model knows, or as JSON with
one value that another request has. The same arguments give the same bytes on every machine.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random

from snaketune.data.quickstart import SpokenRequest, draw_requests


def pair_lines(records: int = 6000, seed: int = 0) -> Iterator[bytes]:
    """Yield raw JSONL lines ``{"prompt": .., "chosen": .., "rejected": ..}``, newline included.

    Args:
        records: number of distinct pairs.
        seed: which requests are drawn and what is wrong with the rejected answers.

    Raises:
        ValueError: if the world has too few requests.
    """
    rng = Random(seed)
    for request, other in _with_others(records, rng):
        yield _line(prompt=request.prompt, chosen=request.completion, rejected=_bad(request, other, rng))


def label_lines(records: int = 4000, seed: int = 0) -> Iterator[bytes]:
    """Yield raw JSONL lines ``{"prompt": .., "completion": .., "label": ..}``; two of five answers are bad ones.

    Takes and raises what :func:`pair_lines` does.
    """
    rng = Random(seed)
    for request, other in _with_others(records, rng):
        is_good = rng.random() < 0.6
        answer = request.completion if is_good else _bad(request, other, rng)
        yield _line(prompt=request.prompt, completion=answer, label=is_good)


def _with_others(records: int, rng: Random) -> Iterator[tuple[SpokenRequest, SpokenRequest]]:
    """Yield requests, each with another one, of the same tool if possible."""
    requests = draw_requests(records + 1, rng)
    last = {request.tool: request for request in requests}
    for before, request in pairwise(requests):
        yield request, last.get(request.tool, before)
        last[request.tool] = request


def _bad(request: SpokenRequest, other: SpokenRequest, rng: Random) -> str:
    """Return a wrong answer to a request: another notation, or one value of another request of the same tool."""
    differ = [place for place, part in enumerate(request.arguments) if part != other.arguments[place]]
    if not differ or rng.random() < 0.3:
        return request.notation
    place = differ[int(rng.random() * len(differ))]
    arguments = (*request.arguments[:place], other.arguments[place], *request.arguments[place + 1 :])
    return replace(request, arguments=arguments).completion


def _line(**fields: str | bool) -> bytes:
    return json.dumps(fields).encode() + b"\n"
