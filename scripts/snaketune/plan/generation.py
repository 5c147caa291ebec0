"""What GRPO generates: answers, their tokens, and the memory that generation takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.plan.memory.memory import DTYPE_BYTES, GB
from snaketune.settings.training_slices import ModelTraining

UNMEASURED = "train.method: grpo spends most of its time generating answers, which only a probe or a run can measure"
LENGTHS = {"measured": "by the probe", "estimated": "taken to be as long as the references"}


@dataclass(frozen=True, slots=True)
class Generated:
    """The answers of one epoch.

    Attributes:
        answers: how many are generated.
        prompt_tokens, answer_tokens: mean length of a prompt and of an answer.
        longest: the most tokens of a prompt and its answer together.
        scored: the most tokens of the answers in one forward pass, whose logits are computed.
        at_once: answers generated at a time.
        origin: whether the length of an answer was measured or is estimated.
        share: measured fraction of the time that goes into generating, if known.
        vllm_share: fraction of the GPU's memory that vLLM takes beside training.
        notes: what the estimate leaves out.
    """

    answers: int
    prompt_tokens: float
    answer_tokens: float
    longest: int
    scored: int
    at_once: int
    origin: str
    share: float | None = None
    vllm_share: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """The tokens of all answers."""
        return round(self.answers * self.answer_tokens)

    @property
    def processed(self) -> int:
        """The tokens of all prompts and answers."""
        return round(self.answers * (self.prompt_tokens + self.answer_tokens))

    def sentences(self) -> tuple[str, ...]:
        """Return the sentences of a plan about generation."""
        counted = (
            f"train.method: grpo generates {self.answers:,} answers in one epoch, of {self.answer_tokens:.0f} tokens"
            f" each ({LENGTHS[self.origin]}): {self.tokens:,} tokens generated and trained, {self.processed:,} with"
            " their prompts"
        )
        spent = (f"generation takes {self.share:.0%} of the time of a step (measured)",) if self.share else ()
        return (counted, *spent, *self.notes)


def generated_of(
    cfg: ModelTraining,
    rightsize: Mapping[str, Any],
    split: Mapping[str, Any],
    probe: Mapping[str, Any] | None = None,
) -> Generated:
    """Return what a training generates.

    Args:
        cfg: the ``model`` and ``train`` sections.
        rightsize: the chosen length.
        split: the packed training rows.
        probe: the record of a probe of this run, if any.
    """
    train, group = cfg["train"], cfg["train"]["grpo"]
    documents, limit = split["documents"], group["max_completion_length"]
    trained = split.get("trainable_tokens") or split["tokens"] / 2
    found, notes = (probe or {}).get("probe", {}).get("answers"), []
    # A probe generates with the model that is there before any training: of a chain of runs, the first one's.
    is_start = not cfg["model"]["name_or_path"].startswith("run:")
    if found and not is_start:
        notes.append("the probe generated with the base model of the chain, not with the run that training starts from")
    if any(name.startswith("run:") for name in group["rewards"]):
        notes.append("hours exclude scoring by reward models")
    measured = found["answer_tokens"] if found and is_start else None
    step = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    in_process = group["use_vllm"] and group["vllm_mode"] == "colocate"
    return Generated(
        answers=documents * group["num_generations"],
        prompt_tokens=(split["tokens"] - trained) / documents,
        answer_tokens=min(trained / documents, limit) if measured is None else measured,
        longest=min(rightsize["longest"], rightsize["max_length"]) + limit,
        scored=train["per_device_train_batch_size"] * limit,
        at_once=0 if group["use_vllm"] else step,
        origin="estimated" if measured is None else "measured",
        share=found["generation_share"] if found else None,
        vllm_share=group["vllm_gpu_memory_utilization"] if in_process else 0.0,
        notes=tuple(notes),
    )


def cache_gigabytes(config: Any, generated: Generated, weight_dtype: str, memory_gb: float | None) -> float:
    """Return the memory in GB of keys and values of the answers that are generated at a time.

    Two values (key, value) per layer, key-value head, dimension and token. With vLLM in the same process it is the
    share of the GPU that vLLM reserves, 0 on a device of unknown size.
    """
    if generated.vllm_share:
        return generated.vllm_share * (memory_gb or 0.0)
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 0) or 0
    size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
    kept = getattr(text, "num_key_value_heads", None) or heads
    values: int = 2 * text.num_hidden_layers * kept * size * generated.longest * generated.at_once
    return values * DTYPE_BYTES[weight_dtype] / GB
