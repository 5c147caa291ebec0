"""The plain types of the settings agree with the configuration's models and with what stages really get."""

import typing

import pytest

from snaketune.config import typed_sections
from snaketune.config.schema import LinkedConfig, RunConfig
from snaketune.config.typed_sections import section_modules
from snaketune.facts.shapes import shaped
from snaketune.settings import data_slices, evaluation_slices, merge_slices, planning_slice, training_slices
from snaketune.settings.model_section import ModelSection
from snaketune.settings.plan_section import PlanSection
from snaketune.settings.tokens_section import TokensSection
from snaketune.workflow.stages import CONFIGURED_STAGES, OPERATIONAL, slice_of


class TokensSlice(typing.TypedDict, total=False):
    tokens: TokensSection


class ModelSlice(typing.TypedDict, total=False):
    model: ModelSection
    plan: PlanSection


SLICES = {
    "stage_sources": data_slices.ReadingSlice,
    "read_records": data_slices.ReadingSlice,
    "prepare_tokenizer": ModelSlice,
    "prepare_model": ModelSlice,
    "tokenize_records": data_slices.TokenizingSlice,
    "rightsize": TokensSlice,
    "pack_rows": TokensSlice,
    "plan_run": planning_slice.PlanningSlice,
    "train_model": training_slices.TrainingSlice,
    "merge_adapter": merge_slices.MergeSlice,
    "evaluate_model": evaluation_slices.EvaluationSlice,
}
CONFIGURATIONS = (
    {},
    {"train": {"method": "dpo", "early_stopping_patience": 2, "eval_steps": 5}, "data": {"format": "preference"}},
    {"adapter": {"type": "none"}, "dedupe": {"near": True}, "tokens": {"max_length": 64}, "plan": {"max_hours": 1}},
)


def undeclared(value, kind):
    """Yield the keys of a slice that its type does not have."""
    hints = typing.get_type_hints(kind) if typing.is_typeddict(kind) else {}
    for key, one in value.items():
        if hints and key not in hints:
            yield key
        elif isinstance(one, dict):
            yield from (f"{key}.{inner}" for inner in undeclared(one, hints.get(key)))


@pytest.mark.parametrize("changes", CONFIGURATIONS)
@pytest.mark.parametrize("stage", SLICES)
def test_the_slice_of_each_stage_has_the_type_that_it_is_declared_with(stage, changes):
    values = {"data": {"sources": ["builtin:quickstart"]}, "model": {"name_or_path": "tiny"}}
    values = {name: values.get(name, {}) | changes.get(name, {}) for name in {*values, *changes}}
    found = slice_of(LinkedConfig.model_validate(values), stage)
    assert shaped(found, SLICES[stage]) == found
    assert list(undeclared(found, SLICES[stage])) == []


@pytest.mark.parametrize("name", [name for name in RunConfig.model_fields if name not in typed_sections.NOT_HANDED_ON])
def test_a_section_has_the_keys_of_its_model_that_decide_results(name):
    scope: dict = {}
    exec(section_modules()[f"{name}_section"], scope)
    model = RunConfig.model_fields[name].annotation
    declared = typing.get_type_hints(scope[typed_sections.class_name(model)])
    assert set(declared) == {key for key in model.model_fields if f"{name}.{key}" not in OPERATIONAL}


def test_descriptions_and_defaults_are_no_part_of_what_stages_import(monkeypatch):
    """Else the code of every stage would change with the documentation of a key, and every stage run again."""
    before = section_modules()
    for field in RunConfig.model_fields["train"].annotation.model_fields.values():
        monkeypatch.setattr(field, "description", "Something else.")
    assert section_modules() == before


def test_every_stage_has_a_type_or_makes_a_policy_of_its_section():
    assert set(CONFIGURED_STAGES) - set(SLICES) == {"dedupe_records", "split_records"}
