"""Settings of other tools: each is a key here, another name for one, or a feature with a sentence."""

import ast
import importlib.util
from pathlib import Path

import pytest

from snaketune.config.aliases import OTHER_NAMES
from snaketune.config.consistency import check_run
from snaketune.config.known_keys import all_keys
from snaketune.config.other_tools import FEATURES
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError

KEYS = {path.rsplit(".", 1)[-1] for path in all_keys()}


def fields_of(package, file, name):
    """The annotated fields of a class, read from its source: importing it takes seconds."""
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    classes = [node for node in ast.parse((root / file).read_text()).body if isinstance(node, ast.ClassDef)]
    body = next(node.body for node in classes if node.name == name)
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def resolve(**sections):
    return resolve_runs(
        Layer("c.yaml", {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}} | sections), {}, "nowhere"
    )


@pytest.mark.parametrize(
    ("package", "file", "name"),
    [
        ("transformers", "training_args.py", "TrainingArguments"),
        ("peft", "tuners/lora/config.py", "LoraConfig"),
        ("trl", "trainer/sft_config.py", "SFTConfig"),
        ("trl", "trainer/dpo_config.py", "DPOConfig"),
        ("trl", "trainer/kto_config.py", "KTOConfig"),
        ("trl", "trainer/grpo_config.py", "GRPOConfig"),
    ],
)
def test_every_setting_of_other_tools_teaches(package, file, name):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert fields_of(package, file, name) - KEYS - set(OTHER_NAMES) - set(FEATURES) == set()


def test_every_sentence_is_one_and_names_keys_that_there_are():
    sections = {path.split(".", 1)[0] for path in all_keys()}
    for name, sentence in FEATURES.items():
        assert (sentence.endswith(".") and sentence[0].isupper()) or sentence.startswith(tuple(sections)), name
        for word in sentence.replace("`", " ").split():
            path = word.rstrip(".,;:)").lstrip("(")
            if path.split(".", 1)[0] in sections and "." in path:
                assert path in all_keys() or any(key.startswith(f"{path}.") for key in all_keys()), (name, path)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"sources": ["a"], "max_samples": 5}}, "data.max_records"),
        ({"train": {"save_strategy": "epoch"}}, "train.save_steps"),
        ({"train": {"label_smoothing_factor": 0.1}}, "Label smoothing"),
        ({"train": {"neftune_noise_alpha": 5}}, "NEFTune"),
        ({"train": {"liger_kernel": True}}, "train.use_liger_kernel"),
        ({"train": {"push_to_hub": True}}, "paths.publish"),
        ({"adapter": {"loftq_config": {}}}, "adapter.use_dora"),
        ({"wandb_project": "x"}, "train.report_to"),
    ],
)
def test_a_feature_that_is_not_offered_is_named_with_what_to_use(sections, words):
    with pytest.raises(ConfigError, match="is not a key here") as error:
        resolve(**sections)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["${MODELS}/llama", "$HOME/llama"])
def test_a_variable_is_refused_by_name_where_it_is_not_replaced(name):
    (run,) = resolve(model={"name_or_path": name})
    with pytest.raises(ConfigError, match=r"model.name_or_path is .*\$.* is not expanded here"):
        check_run(run)
    (run,) = resolve(tokens={"chat_template": "$HOME/t.jinja"})
    with pytest.raises(ConfigError, match=r"tokens\.chat_template"):
        check_run(run)
    (run,) = resolve(tokens={"chat_template": "{% for m in messages %}$price{{ m.content }}{% endfor %}"})
    check_run(run)
