from pathlib import Path

import pytest

from snaketune.config.known_keys import all_keys
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.schema import RunConfig
from snaketune.core.errors import ConfigError

PRESETS = Path(__file__).parents[2] / "config" / "presets"
MINIMAL = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}


def resolve(values, command_line=None):
    return resolve_runs(Layer("config/config.yaml", values), command_line or {}, PRESETS)


def refusal(values, command_line=None):
    with pytest.raises(ConfigError) as error:
        resolve(values, command_line)
    return str(error.value)


def test_three_lines_are_a_configuration():
    (run,) = resolve(MINIMAL)
    assert run.name == "default"
    assert run.config.train.learning_rate == 2e-4


def test_later_layers_win_and_every_value_keeps_its_origin():
    file = {"preset": "quickstart", "train": {"seed": 1}, "runs": {"a": {"train": {"seed": 2}}}}
    (run,) = resolve(file, {"train": {"max_steps": "7"}})
    flat = run.flat()
    assert flat["train.seed"] == {"value": 2, "origin": "runs.a in config/config.yaml"}
    assert flat["train.max_steps"] == {"value": 7, "origin": "--config"}
    assert flat["model.name_or_path"] == {"value": "tiny", "origin": "preset quickstart"}
    assert flat["train.weight_decay"] == {"value": 0.0, "origin": "default"}
    assert sorted(flat) == sorted(all_keys())


def test_runs_share_the_file_and_differ_in_their_own_keys():
    runs = resolve({**MINIMAL, "runs": {"b": {"adapter": {"r": 8}}, "a": None}})
    assert [(run.name, run.config.adapter.r) for run in runs] == [("a", 16), ("b", 8)]


def test_texts_from_the_command_line_are_coerced():
    (run,) = resolve(
        {**MINIMAL, "data": {"sources": "a.jsonl", "system_prompt": "x"}},
        {"train": {"learning_rate": "2e-4", "bf16": "false"}, "data": {"system_prompt": "null"}},
    )
    assert run.config.train.learning_rate == 2e-4
    assert run.config.train.bf16 is False
    assert run.config.data.system_prompt is None
    assert run.config.data.sources == ["a.jsonl"]


def test_a_mapping_of_columns_is_replaced_as_a_whole():
    file = {**MINIMAL, "data": {"sources": ["a.jsonl"], "columns": {"prompt": "q", "completion": "a"}}}
    (run,) = resolve({**file, "runs": {"x": {"data": {"columns": {"text": "body"}}}}})
    assert run.config.data.columns == {"text": "body"}


@pytest.mark.parametrize(
    ("key", "section", "teaches"),
    [
        ("micro_batch_size", "train", "axolotl, litgpt's name for train.per_device_train_batch_size"),
        ("cutoff_len", "tokens", "tokens.max_length"),
        ("lora_rank", "adapter", "adapter.r"),
        ("learning_rat", "train", "Did you mean learning_rate?"),
        (
            "zzz",
            "merge",
            "Valid keys are enabled, adapters, method, density, seed, dtype, rounding, max_shard_size, gguf_types",
        ),
    ],
)
def test_unknown_keys_teach_the_right_one(key, section, teaches):
    message = refusal({**MINIMAL, section: {**MINIMAL.get(section, {}), key: 1}})
    assert message.startswith(f"config/config.yaml: {section}.{key}")
    assert teaches in message


def test_a_key_in_the_wrong_section_names_its_section():
    assert "train.learning_rate" in refusal({**MINIMAL, "learning_rate": 1e-4})


@pytest.mark.parametrize(
    "name", ["a/b", "..", "a b", "a'b", "$(x)", "a;b", "-a", "", "latest", "x" * 65, "a..b", "ä", "a\n"]
)
def test_run_names_are_plain_folder_names(name):
    assert "runs has the name" in refusal({**MINIMAL, "runs": {name: {}}})


def test_names_of_runs_are_folders_of_their_own_on_every_disk():
    message = refusal({**MINIMAL, "runs": {"Lora": {}, "b": {}, "lora": {}}})
    assert message.startswith("config/config.yaml: the runs Lora and lora differ only by case")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["data.sources is missing", "data: {sources: [my-data.jsonl]}"]),
        ({"data": {"sources": ["a.jsonl"]}}, ["model.name_or_path is missing"]),
        ({**MINIMAL, "train": {"learning_rate": "fast"}}, ["train.learning_rate is 'fast'", "number"]),
        ({**MINIMAL, "tokens": {"max_length": "big"}}, ["tokens.max_length is 'big'", "'auto' or", "integer"]),
        ({**MINIMAL, "data": {"sources": []}}, ["data.sources is []"]),
        ({**MINIMAL, "train": 3}, ["train is 3", "indented keys"]),
        ({**MINIMAL, "preset": "fastest"}, ["no preset 'fastest'", "quickstart"]),
        ({**MINIMAL, "runs": ["a"]}, ["runs is ['a']"]),
    ],
)
def test_wrong_values_end_in_one_sentence_with_place_value_and_fix(values, words):
    message = refusal(values)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_setting_for_the_tiny_model_on_another_model_is_noted():
    (run,) = resolve({"preset": "quickstart", "model": {"name_or_path": "some/model"}})
    assert "some/model" in run.notes[0]
    assert resolve({"preset": "quickstart"})[0].notes == ()


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_resolves(preset):
    runs = resolve({**MINIMAL, "preset": preset})
    assert runs and all(isinstance(run.config, RunConfig) for run in runs)
