"""Combines several adapters of one base model into one, by PEFT's ``add_weighted_adapter``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import ADAPTER_WEIGHTS
from snaketune.merge.adapter import ADAPTER_CONFIG, PEFT_PREFIX, TRAIN_AGAIN, A, LoadedAdapter, read_adapter
from snaketune.model.adapters.peft_names import names_as_given
from snaketune.model.architecture import auto_class, read_configuration
from snaketune.settings.merge_slices import MergeSlice

COMBINED = "combined"


@dataclass(frozen=True, slots=True)
class Combination:
    """Method and weights of a combination of adapters.

    Attributes:
        weights: factor of each adapter.
        method: a ``combination_type`` of PEFT.
        density: fraction of values that pruning keeps; None for methods without pruning.
        seed: of DARE's random pruning.
    """

    weights: tuple[float, ...]
    method: str = "cat"
    density: float | None = None
    seed: int = 0

    @classmethod
    def of_slice(cls, cfg: MergeSlice) -> "Combination":
        """Return the combination of a merge's configuration slice, which omits settings without effect."""
        own = cfg["merge"]
        weights = tuple(adapter["weight"] for adapter in own["adapters"])
        return cls(weights, own["method"], own.get("density"), own.get("seed", 0))


def combine_adapters(
    model: Path, folders: Sequence[Path], how: Combination, target: Path, trust: bool = False
) -> LoadedAdapter:
    """Write the combination of the adapters in ``folders`` to the empty folder ``target`` as an ordinary adapter.

    Memory holds the adapters but no base weights: combining adapters needs only theirs.

    Args:
        model: the base model, of which only the configuration is read.
        folders: the adapters.
        how: weights and method.
        target: an empty folder.
        trust: whether code that comes with the model may run.

    Raises:
        TrainingError: if an adapter is damaged, not plain LoRA or of another model, or PEFT cannot combine them.
    """
    adapters = [_plain(folder) for folder in folders]
    tuned = _with_member(hollow_model(model, trust), 0, adapters[0])
    for number, adapter in enumerate(adapters[1:], start=1):
        tuned = _with_member(tuned, number, adapter)
    tensors = _combined(tuned, adapters, how)
    save_file(tensors, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    write_json(target / ADAPTER_CONFIG, _configuration(tuned, adapters[0], tensors))
    return read_adapter(target)


def _with_member(model: Any, number: int, adapter: LoadedAdapter) -> PeftModel:
    """Return ``model``, a base model or one with adapters on it, with one more adapter."""
    name = _member(number)
    with names_as_given():
        if number:
            model.add_adapter(name, adapter.config)
        tuned = model if number else PeftModel(model, adapter.config, adapter_name=name)
        set_peft_model_state_dict(tuned, dict(adapter.tensors), adapter_name=name)
    _check_loaded(tuned, name, adapter)
    return tuned


def _member(number: int) -> str:
    # PEFT searches tensor names for the adapter's name: none may be a substring of another's, or of a layer's.
    return f"member-{number:04d}"


def _plain(folder: Path) -> LoadedAdapter:
    adapter = read_adapter(folder)
    if not adapter.is_plain:
        raise TrainingError(
            f"{folder}: the adapter has more than two matrices per weight (DoRA, full layers, embeddings), but only "
            "plain LoRA adapters can be combined: leave it out of merge.adapters."
        )
    return adapter


def hollow_model(folder: Path, trust: bool) -> Any:
    """Return the model in ``folder`` with zero weights that have their shapes but take no memory."""
    config = read_configuration(folder, trust)
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=trust)
    # PEFT would put the adapters on the meta device, too; a single number expanded to the shape is as small.
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            hollow = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(hollow, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    return model


def _check_loaded(tuned: PeftModel, name: str, adapter: LoadedAdapter) -> None:
    found = get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False)
    if strays := sorted(set(found) ^ set(adapter.tensors)):
        raise TrainingError(
            f"{adapter.folder}: {len(strays)} tensors do not belong to this model's adapter or are missing from the "
            f"file; the first is {strays[0]}: {TRAIN_AGAIN}."
        )


def _combined(tuned: PeftModel, adapters: list[LoadedAdapter], how: Combination) -> dict[str, torch.Tensor]:
    # The scales are folded into the combined matrices; PEFT would scale those of rank-stabilised adapters again.
    for config in tuned.peft_config.values():
        config.use_rslora = False  # type: ignore[attr-defined]
    names = [_member(number) for number in range(len(adapters))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        try:
            # A seeded generator of its own: DARE draws its mask from torch's global one.
            tuned.base_model.add_weighted_adapter(  # type: ignore[operator]
                names, list(how.weights), COMBINED, how.method, density=how.density, svd_full_matrices=False
            )
        except (ValueError, RuntimeError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"merge.adapters: PEFT cannot combine {', '.join(str(adapter.folder) for adapter in adapters)} by"
                f" {how.method} ({first}): set merge.method to cat, or leave one out."
            ) from None
    found = get_peft_model_state_dict(tuned, adapter_name=COMBINED, save_embedding_layers=False)
    wanted = set().union(*(adapter.tensors for adapter in adapters))
    # PEFT skips layers that only some of the adapters have.
    if set(found) != wanted:
        raise TrainingError(
            "merge.adapters: the combination does not cover the layers of all adapters: leave out the adapter that was"
            " restricted to some layers."
        )
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def _configuration(tuned: PeftModel, adapter: LoadedAdapter, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the configuration of ``adapter`` with the combined layers and ranks, at a scale of one."""
    ranks = {
        name.removeprefix(PEFT_PREFIX).removesuffix(A): tensor.shape[0]
        for name, tensor in tensors.items()
        if name.endswith(A)
    }
    usual = max(ranks.values())
    others = {name.replace(".", r"\."): rank for name, rank in sorted(ranks.items()) if rank != usual}
    modules: Any = tuned.peft_config[COMBINED].target_modules  # type: ignore[attr-defined]
    settings = read_json(adapter.folder / ADAPTER_CONFIG) | {"r": usual, "lora_alpha": usual, "use_rslora": False}
    settings |= {"rank_pattern": others, "alpha_pattern": others, "target_parameters": None}
    return settings | {"target_modules": modules if isinstance(modules, str) else sorted(modules)}
