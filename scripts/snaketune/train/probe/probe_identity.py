"""The name under which a probe is kept: for which device, model, rows and settings it holds."""

from collections.abc import Mapping
from typing import Any

from snaketune.core.canonical import digest_of

WITHOUT_EFFECT = {
    "model": ("name_or_path", "revision", "base"),
    "adapter": ("lora_alpha", "alpha_pattern", "use_rslora", "init_from", "start"),
    "train": (
        "learning_rate",
        "lr_scheduler_type",
        "warmup_ratio",
        "weight_decay",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "eval_steps",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "early_stopping_patience",
        "early_stopping_threshold",
        "seed",
        "strategy",
    ),
}
"""Settings that cannot change how fast a step is, or that a probe does not heed."""
LOADER = ("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory")


def probe_identity(
    cfg: Mapping[str, Any],
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    rows: Mapping[str, Any],
    device: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Return the name under which a probe is kept: runs that agree on it are as fast as each other.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        settings: operational settings of training.
        model, rows: the manifests of the model and of its packed rows.
        device: the GPU's name, or host and kind of the CPU.
        versions: of the packages that train.
    """
    sections = {
        section: {name: value for name, value in cfg[section].items() if name not in left_out}
        for section, left_out in WITHOUT_EFFECT.items()
    }
    architecture = {name: entry for name, entry in model["files"].items() if name.endswith("config.json")}
    parts: dict[str, Any] = {"settings": sections, "loader": {name: settings[name] for name in LOADER}}
    parts |= {"model": [architecture, model["parameters"], model["dtype"]], "rows": rows["files"]}
    return digest_of({**parts, "device": device, "versions": versions}, size=8)
