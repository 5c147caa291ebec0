"""What is checked about rows and model before the first step."""

from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from snaketune.core.errors import DataError
from snaketune.data.rows.packed_rows import PackedRows

ROWS_AT_ONCE = 1024


def check_rows(model: PreTrainedModel | PeftModel, rows: PackedRows, held_out: PackedRows) -> None:
    """Check that there is something to train on and that the model knows every token id.

    Raises:
        DataError: if there are no rows, or a row holds a token id that the model has no embedding for.
    """
    if not len(rows):
        raise DataError("train.arrow holds no rows: no record is left to train on; see the counts of each data stage.")
    embedding: Any = model.get_input_embeddings()
    # Where some of its rows are trained it is in a wrapper, which would put all rows together to be asked.
    known = getattr(embedding, "original_module", embedding).weight.shape[0]
    for name, split in (("train.arrow", rows), ("eval.arrow", held_out)):
        for start in range(0, len(split), ROWS_AT_ONCE):
            block = split.take("input_ids", range(start, min(start + ROWS_AT_ONCE, len(split))))
            if block.max() >= known or block.min() < 0:
                wrong = next(row for row, ids in enumerate(block) if ids.max() >= known or ids.min() < 0)
                token = max(block[wrong].max(), -block[wrong].min())
                raise DataError(
                    f"{name}, row {start + wrong}: token id {token} is not in the model's vocabulary of {known}: the"
                    " tokenizer does not belong to this model; check model.name_or_path and added tokens."
                )


def describe_batches(rows: int, train: dict[str, Any]) -> str | None:
    """Return one line when an optimizer step asks for more rows than there are, else None."""
    wanted = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    if rows >= wanted:
        return None
    return (
        f"An optimizer step takes {wanted} rows (train.per_device_train_batch_size"
        f" {train['per_device_train_batch_size']} x train.gradient_accumulation_steps"
        f" {train['gradient_accumulation_steps']}) and there are {rows}: each step trains on all of them, once; lower"
        " either for more steps."
    )
