"""Optional packages that some measures need."""

import importlib
import importlib.util
import os
from collections.abc import Collection
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.train.packages import spare_unused

SACREBLEU, ROUGE, HARNESS = "sacrebleu", "rouge_score", "lm_eval"
OF_METRIC = {"chrf": SACREBLEU, "bleu": SACREBLEU, "rouge_l": ROUGE}
EXTRA_OF_MEASURE = {SACREBLEU: "text-metrics", ROUGE: "text-metrics", HARNESS: "lm-eval"}


def require_evaluation_packages(metrics: Collection[str], tasks: Collection[str]) -> None:
    """Check that what ``evaluate.metrics`` and ``evaluate.tasks`` need is installed.

    Raises:
        ConfigError: with the command that installs it and the setting that does without.
    """
    for metric in metrics:
        if metric in OF_METRIC and importlib.util.find_spec(OF_METRIC[metric]) is None:
            raise _missing(f"evaluate.metrics: {metric}", OF_METRIC[metric], "leave it out")
    if tasks and importlib.util.find_spec(HARNESS) is None:
        raise _missing("evaluate.tasks", HARNESS, "leave it empty")


def package(name: str) -> Any:
    """Return an optional package, which :func:`require_evaluation_packages` found."""
    return importlib.import_module(name)


def _missing(setting: str, package: str, without: str) -> ConfigError:
    return ConfigError(
        f"{setting} needs the package {package}: "
        f""
        f""
        f""
        f""
        f""
        f"pip install -r envs/extras/{EXTRA_OF_MEASURE[package]}.txt -c constraints.txt,"
        f" or {without}."
    )


def prepare_imports(cfg: Any) -> None:
    """Set up the environment before heavy imports, and refuse packages that cannot be imported.

    Raises:
        ConfigError: naming a package that is missing.
    """
    # All inputs are on disk; task files must not download data either.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    spare_unused(cfg)
    wanted = cfg.get("evaluate", {})
    require_evaluation_packages(wanted.get("metrics", ()), wanted.get("tasks", ()))
