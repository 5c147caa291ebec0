"""The identity of a training, which names its private folder."""

from collections.abc import Mapping

from snaketune.core.canonical import digest_of
from snaketune.facts.data_facts import DataIdentity, Packing


def fingerprint(
    spec: str, data: DataIdentity, rows: Packing, origins: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """Return the identity of a training.

    Args:
        spec: configuration and code.
        data: the identity of the data.
        rows: the facts of the packed rows.
        origins: digests of the weights that training starts from.
        versions: of the packages that do arithmetic.
    """
    # Whatever can change a bit of the result, and nothing else: host, clock, paths and loader processes are free, so a
    # training resumes on another machine; another version of torch may sum in another order, so it starts over.
    parts = {"spec": spec, "data": data["fingerprint"], "rows": rows["files"]}
    return digest_of({**parts, "origins": origins, "versions": versions}, size=16)
