"""The identity of a training, which names its private folder."""

from typing import Any

from snaketune.core.canonical import digest_of


def fingerprint(
    spec: str, rightsize: dict[str, Any], rows: dict[str, Any], origins: dict[str, str], versions: dict[str, str]
) -> str:
    """Return the identity of a training.

    Args:
        spec: configuration and code.
        rightsize: the facts of the data.
        rows: the facts of the packed rows.
        origins: digests of the weights that training starts from.
        versions: of the packages that do arithmetic.
    """
    # Whatever can change a bit of the result, and nothing else: host, clock, paths and loader processes are free, so a
    # training resumes on another machine; another version of torch may sum in another order, so it starts over.
    parts = {"spec": spec, "data": rightsize["fingerprint"], "rows": rows["files"]}
    return digest_of({**parts, "origins": origins, "versions": versions}, size=16)
