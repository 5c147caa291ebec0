"""Check of a merged model's tokenizer, chat template and generation settings, as loaded from its folder."""

from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings, load_tokenizer
from snaketune.model.configuration import GENERATION
from snaketune.model.stop_tokens import settings_with_stop

SAMPLED_ROWS = 4  # rows that both tokenizers encode


def check_auxiliary_files(
    folder: Path, base_folder: Path, rows: PackedRows, template: str, settings: ModelSettings
) -> None:
    """Check the tokenizer, the chat template and the generation settings of the merged model in ``folder``.

    Args:
        folder: the merged model.
        base_folder: the base model.
        rows: packed rows; both tokenizers encode the text of the first ones.
        template: the chat template that the model was tuned with; empty if the base model's is kept.
        settings: how tokenizers are loaded.

    Raises:
        TrainingError: naming the part that is missing or differs.
    """
    base, copy = (_tokenizer(path, settings) for path in (base_folder, folder))
    ids = [rows.take("input_ids", [row])[0].tolist() for row in range(min(SAMPLED_ROWS, len(rows)))]
    texts = [base.decode(tokens) for tokens in ids]
    same = base.get_vocab() == copy.get_vocab() and base.special_tokens_map == copy.special_tokens_map
    if not same or base(texts)["input_ids"] != copy(texts)["input_ids"]:
        raise TrainingError(
            f"{folder}: the tokenizer encodes differently from the base model's: prepare the model again."
        )
    if copy.chat_template != (template or base.chat_template):
        found = "no chat template" if copy.chat_template is None else "a different chat template than the run's"
        raise TrainingError(f"{folder}: the tokenizer loads {found}: prepare the model again.")
    _check_generation(folder, base_folder, settings_with_stop(base_folder, base, template))


def _tokenizer(folder: Path, settings: ModelSettings) -> Any:
    try:
        return load_tokenizer(folder, settings)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise TrainingError(f"{folder}: the tokenizer does not load ({first}): prepare the model again.") from None


def _check_generation(folder: Path, base_folder: Path, more: dict[str, Any] | None) -> None:
    if more:
        if not (folder / GENERATION).is_file() or read_json(folder / GENERATION) != more:
            raise TrainingError(
                f"{folder / GENERATION} does not end answers at {more['eos_token_id']}, as the base model and the chat "
                "template do, so answers would be generated differently: merge again."
            )
        return
    wanted, found = (
        (path / GENERATION).read_bytes() if (path / GENERATION).is_file() else None for path in (base_folder, folder)
    )
    if found == wanted:
        return
    state = "is missing" if found is None else "is not the base model's"
    raise TrainingError(f"{folder / GENERATION} {state}, so answers would be generated differently: merge again.")
