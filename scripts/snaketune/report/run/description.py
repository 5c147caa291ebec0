"""run.json: the identity of a run."""

import platform
from typing import Any

from snaketune.core.canonical import digest_of


def describe(cfg: dict[str, Any], facts: dict[str, dict[str, Any]], merged: dict[str, Any] | None) -> dict[str, Any]:
    """Return the identity of a run: what it was made from, with one fingerprint over all of it.

    Args:
        cfg: ``run``, ``id``, ``stages`` (configuration slice of each stage) and ``code`` (digest of each stage's code).
        facts: the fact files ``resolved``, ``rightsize``, ``stage``, ``tokens``, ``rows``, ``model`` and ``adapter``.
        merged: the facts of the merge, or None when the run does not merge.
    """
    model, resolved = facts["model"], facts["resolved"]
    digests = {
        "data": facts["rightsize"]["fingerprint"],
        "rows": digest_of(facts["rows"]["files"]),
        "tokenizer": model["tokenizer_digest"],
        "chat_template": facts["tokens"]["files"]["chat_template.jinja"]["digest"],
        "base_model": model["weights_digest"],
        "adapter": digest_of(facts["adapter"]["files"]),
        "merged": digest_of(merged["files"]) if merged and merged["files"] else None,
        "code": cfg["code"],
    }
    # What another run made is called as it is there, so that a chain of runs can be followed.
    earlier = {"base_run": model.get("merged_digest"), "start_adapter": facts["adapter"]["origins"].get("adapter")}
    digests |= {name: digest for name, digest in earlier.items() if digest}
    versions = {"python": platform.python_version(), **facts["adapter"]["versions"]}
    identity = {
        "stages": cfg["stages"],
        "digests": digests,
        "versions": versions,
        "sources": [s["digest"] for s in facts["stage"]["sources"]],
    }
    return {
        **({"earlier": resolved["earlier"]} if resolved.get("earlier") else {}),
        "run": cfg["run"],
        "id": cfg["id"],
        "fingerprint": digest_of(identity),
        "training_fingerprint": facts["adapter"]["fingerprint"],
        "config": resolved["config"],
        "digests": digests,
        "sources": facts["stage"]["sources"],
        "versions": versions,
        "seeds": {name: resolved["config"][name]["value"] for name in ("train.seed", "split.seed")},
        "notes": resolved["notes"],
    }
