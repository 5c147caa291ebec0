"""What `train.method: dpo` changes of the data stages, and what does not go together with it."""

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.stages import DATA_STAGES, slice_of, stage_id

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


def test_data_for_pairs_are_read_and_tokenised_anew():
    sft, dpo = run().config, run(train={"method": "dpo"}).config
    differ = [stage for stage in DATA_STAGES if stage_id(sft, stage) != stage_id(dpo, stage)]
    assert differ == list(DATA_STAGES[1:])
    for stage in ("read_records", "tokenize_records"):
        assert "train" not in slice_of(sft, stage)
        assert slice_of(dpo, stage) == slice_of(sft, stage) | {"train": {"method": "dpo"}}
    for stage in ("stage_sources", "dedupe_records", "split_records", "rightsize", "pack_rows"):
        assert slice_of(dpo, stage) == slice_of(sft, stage)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tokens": {"on_too_long": "truncate"}}, r"tokens\.on_too_long is truncate: .* drop or error"),
        ({"data": {"format": "messages"}}, r"data\.format is messages, .* set data\.format to preference"),
        ({"tokens": {"assistant_only_loss": False}}, r"tokens\.assistant_only_loss is false: .* set it to true"),
    ],
)
def test_what_does_not_go_with_pairs_is_one_sentence(sections, words):
    check_run(run(**sections))
    check_run(run(train={"method": "dpo"}, data={"format": "preference"}))
    with pytest.raises(ConfigError, match=f"train.method is dpo and {words}"):
        check_run(run(train={"method": "dpo"}, **sections))
