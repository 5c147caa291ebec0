import dataclasses
import re
import socket

import pytest
from huggingface_hub import ModelCard, ModelCardData
from report_case import FILES, FOLDER

from snaketune.card.card import evaluation_limits, render_card
from snaketune.card.card_facts import CardFacts, load_card_facts
from snaketune.card.front_matter import metadata
from snaketune.card.markdown_text import code, one_line
from snaketune.card.training_section import funnel_counts
from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.errors import DataError
from snaketune.core.manifest import read_manifest, write_manifest
from snaketune.facts.of_run import FACT_FILES
from snaketune.facts.shapes import shaped
from snaketune.model.model_metadata import describe_card
from snaketune.workflow.lifecycle import place_cards
from snaketune.workflow.results.damage import drop_damaged_manifests

NAMES = ("run", "reading", "dedupe", "split", "tokens", "rightsize", "pack", "adapter", "evaluation")
HUB = {
    "kind": "hub",
    "name": "maker/base-1b",
    "repo": "maker/base-1b",
    "commit": "c0ffee",
    "weights_digest": "abc",
    "files": {"model/chat_template.jinja": {"bytes": 3, "digest": "of the base"}},
    "card": {"license": "apache-2.0", "language": ["en", "de"]},
}
FOLDER_BASE = {"kind": "folder", "name": "my model", "weights_digest": "abc", "files": {}}
TINY = {"kind": "tiny", "name": "tiny", "weights_digest": "a", "files": {}}
NASTY = "evil`|name\n---\nlicense: mit\n<script>alert(1)</script> {{ 7*7 }} \u202e: [x](http://y)#"


def case(kind="merged", base=HUB, **changes) -> CardFacts:
    """The facts of the golden run, with a base model and some fields replaced."""
    found = {name: read_json(FOLDER / FILES[name]) for name in (*NAMES, "merged")}
    found["tokens"]["files"] = {"chat_template.jinja": {"bytes": 9, "digest": "of the run"}}
    found["run"]["config"]["train.method"] = {"value": "sft", "origin": "default"}
    found |= {"base": base, "origin": base, **changes}
    return CardFacts(kind=kind, **{name: shaped_fact(name, value) for name, value in found.items()})


def shaped_fact(name, value):
    """A document as it is after it was read."""
    return value if value is None else shaped(value, FACT_FILES[name].kind)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a card is checked without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def parsed(facts) -> ModelCardData:
    return ModelCard(render_card(facts), ignore_metadata_errors=False).data


def with_setting(facts, key, value):
    config = {**facts.run["config"], key: {"value": value, "origin": "config/config.yaml"}}
    return dataclasses.replace(facts, run={**facts.run, "config": config})


def test_the_hub_reads_the_front_matter_of_the_merged_model():
    data = parsed(case())
    assert (data.base_model, data.library_name, data.pipeline_tag) == (HUB["repo"], "transformers", "text-generation")
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert (data.license, data.language) == ("apache-2.0", ["en", "de"])
    assert {"lora", "sft"} <= set(data.tags)


def test_the_hub_reads_the_front_matter_of_the_adapter():
    data = parsed(case("adapter"))
    assert (data.library_name, data.to_dict()["base_model_relation"]) == ("peft", "adapter")


@pytest.mark.parametrize(("kind", "model"), [("adapter", "tuned"), ("merged", "merged")])
def test_the_model_index_holds_what_the_evaluation_measured(kind, model):
    facts = case(kind)
    found = [result for result in parsed(facts).eval_results if result.dataset_split == "eval"]
    values = {result.metric_name: result.metric_value for result in found}
    measured = facts.evaluation[model]
    assert values["loss (nats per token)"] == pytest.approx(measured["loss"], rel=1e-5)
    assert values["exact match"] == pytest.approx(measured["exact_match"], rel=1e-5)
    assert not {"n", "n_generated"} & {result.metric_type for result in found}


def test_files_and_tasks_are_results_of_their_own():
    evaluation = {
        "tuned": {"n": 0},
        "files": {
            "/home/someone/secret/test.jsonl": {"base": {"numeric_match": 0.1}, "tuned": {"numeric_match": 0.25}}
        },
        "tasks": {"capitals": {"version": 2, "n": 7, "base": {"acc,none": 0.5}, "tuned": {"acc,none": 1.0}}},
    }
    facts = case("adapter", evaluation=evaluation)
    found = {result.dataset_name: (result.metric_value, result.dataset_split) for result in parsed(facts).eval_results}
    assert found == {"test.jsonl": (0.25, "test"), "capitals (lm-evaluation-harness, version 2)": (1.0, "test")}
    assert "someone" not in render_card(facts)


def test_nothing_measured_is_said_and_has_no_index():
    facts = case(evaluation={"base": {"n": 0}, "tuned": {"n": 0}, "merged": {"n": 0}})
    assert parsed(facts).eval_results is None
    assert "Nothing was measured." in render_card(facts)
    assert evaluation_limits(facts)[0].startswith("Nothing was held out")


def test_a_base_that_is_not_of_the_hub_is_described_and_not_named_to_it():
    facts = case(base=FOLDER_BASE)
    stated = metadata(facts)
    assert not {"base_model", "base_model_relation", "license", "language", "datasets"} & set(stated)
    card = render_card(facts)
    assert "the model in the folder `my model`" in card
    assert "licence of the base model is unknown" in card


def test_in_a_chain_of_runs_only_the_merged_model_belongs_to_the_first_base():
    of_run = FOLDER_BASE | {"kind": "run", "name": "run:first"}
    assert metadata(case("merged", of_run, origin=HUB))["base_model"] == HUB["repo"]
    assert "base_model" not in metadata(case("adapter", of_run, origin=HUB))
    assert metadata(case("adapter", of_run, origin=HUB))["license"] == "apache-2.0"


def test_a_full_fine_tune_is_no_adapter():
    made = case("adapter").adapter | {"trained": "every weight"}
    facts = case("adapter", adapter=made)
    assert metadata(facts)["library_name"] == "transformers"
    assert metadata(facts)["base_model_relation"] == "finetune"
    assert "PeftModel" not in render_card(facts)


def test_datasets_are_named_where_the_path_is_that_of_the_hubs_cache():
    facts = case()
    path = "/root/.cache/huggingface/hub/datasets--openai--gsm8k/snapshots/ab/train.jsonl"
    sources = [{"path": path, "bytes": 1, "digest": "d"}]
    facts = dataclasses.replace(facts, run=facts.run | {"sources": sources})
    assert parsed(facts).datasets == ["openai/gsm8k"]
    assert "datasets" not in metadata(case())


def test_hostile_names_stay_text():
    facts = case(base=FOLDER_BASE | {"name": NASTY})
    sources = [{"path": f"/data/{NASTY}", "bytes": 1, "digest": "d"}]
    evaluation = facts.evaluation | {"files": {NASTY: {"tuned": {"exact_match": 1.0}, "merged": {"exact_match": 1.0}}}}
    facts = case(facts.kind, facts.base, run=facts.run | {"sources": sources}, evaluation=evaluation)
    card = render_card(facts)
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert data.license is None
    assert [name for name in data.to_dict() if name not in metadata(facts)] == []
    assert card.count("\n---\n") == 1
    body = card.split("\n---\n", 1)[1]
    assert "\u202e" not in card
    for line in body.splitlines():
        if "script" in line:  # nothing of it outside a code span
            assert "<script>" not in re.sub(r"`[^`]*`", "", line)
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} <= {3, 6, 7}


def test_texts_and_paths_of_the_user_are_left_out():
    facts = case()
    for key, value in {
        "data.system_prompt": "You are Marvin.",
        "tokens.chat_template": "/home/someone/template.jinja",
        "split.decontaminate": ["/home/someone/eval.jsonl"],
        "model.name_or_path": "/home/someone/base",
        "adapter.target_modules": ["q_proj", "v_proj"],
    }.items():
        facts = with_setting(facts, key, value)
    card = render_card(facts)
    assert "Marvin" not in card
    assert "someone" not in card
    assert "q_proj, v_proj" in card


def test_the_funnel_counts_what_left():
    steps = dict(funnel_counts(case()))
    reading, dedupe = case().reading, case().dedupe
    assert steps["invalid, set aside"] == reading["quarantined"]
    assert steps["duplicates removed"] == dedupe["removed"]
    assert steps["training split"] + steps["held-out split"] <= dedupe["kept"]


def test_the_merge_check_is_in_the_merged_card_alone():
    assert "## Merge check" in render_card(case())
    assert "## Merge check" not in render_card(case("adapter"))
    check = case().merged["check"]
    assert f"{check['mean_kl']:.4g}" in render_card(case())


def test_answers_that_were_cut_are_a_limit():
    evaluation = case().evaluation
    cut = evaluation | {"tuned": evaluation["tuned"] | {"n_cut": 3}}
    assert not any("cut at" in limit for limit in evaluation_limits(case()))
    facts = with_setting(case(evaluation=cut), "evaluate.max_new_tokens", 48)
    assert "3 of 40 answers on the held-out split were cut at 48 tokens" in "".join(evaluation_limits(facts))
    assert "n_cut" not in render_card(facts)


def test_stop_tokens_that_the_model_does_not_know_are_given():
    assert "eos_token_id" not in render_card(case())
    evaluation = case().evaluation | {"stop_tokens": [2, 7]}
    card = render_card(case("adapter", evaluation=evaluation))
    assert "do_sample=False, eos_token_id=[2, 7])" in card
    assert "(`stop_token_ids`): 2, 7." in card
    assert "eos_token_id" not in render_card(case("merged", evaluation=evaluation)), "the folder knows them itself"


def test_a_combination_of_adapters_is_listed():
    adapters = [{"run": "one", "weight": 0.75, "digest": "d1"}, {"run": "two", "weight": 0.25, "digest": "d2"}]
    merged = case().merged | {"combination": {"method": "ties", "adapters": adapters}}
    card = render_card(case(merged=merged))
    assert "| `two` | 0.25 | `d2` |" in card
    assert "(ties)" in card


def test_commands_say_whether_they_were_run():
    for kind in ("adapter", "merged"):
        card = render_card(case(kind))
        assert card.count("not run here") == 2  # vLLM and the upload
        assert "Nothing was uploaded." in card
        assert "snakemake --cores 8 train" in card


def test_an_adapter_that_vllm_cannot_serve_says_so():
    facts = with_setting(case("adapter"), "adapter.use_dora", True)
    assert "vllm serve" not in render_card(facts)
    assert "--max-lora-rank 64" in render_card(with_setting(case("adapter"), "adapter.r", 33))


def test_a_chat_template_of_its_own_is_pointed_out():
    assert "its own chat template" in render_card(case("adapter"))
    digest = case().tokens["files"]["chat_template.jinja"]["digest"]
    same = HUB | {"files": {"model/chat_template.jinja": {"bytes": 3, "digest": digest}}}
    assert "its own chat template" not in render_card(case("adapter", same))


def test_equal_facts_give_equal_bytes(tmp_path):
    paths = {name: str(FOLDER / FILES[name]) for name in (*NAMES, "merged")}
    facts = {"tokens": case().tokens, "base": TINY, "origin": TINY}
    for name, content in facts.items():
        paths[name] = str(tmp_path / f"{name}.json")
        write_json(paths[name], content)
    assert render_card(load_card_facts("merged", paths)) == render_card(load_card_facts("merged", paths))
    assert "built-in tiny model" in render_card(load_card_facts("adapter", paths | {"merged": None}))


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_fact_file_is_one_sentence(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(
        DataError, match=r"run\.json (is not JSON|does not hold a JSON object).*: delete it and run the same command"
    ):
        load_card_facts("merged", {"run": str(tmp_path / "run.json")})


@pytest.mark.parametrize("text", [NASTY, "``", "\\", "a" * 500, "\x00\x1b[31m"])
def test_a_code_span_cannot_be_left(text):
    span = code(text)
    assert span.count("`") in (0, 2)
    assert "|" not in span
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("card", "known"),
    [
        ("---\nlicense: mit\nlanguage: en\n---\n# x", {"license": "mit", "language": ["en"]}),
        ("---\nlicense: other\nlicense_name: mine\n---\n", {"license": "other", "license_name": "mine"}),
        ("---\nlicense: [mit, apache-2.0]\nlanguage: [en, '---', 7]\n---\n", {"language": ["en"]}),
        ("---\nlicense: 'a: b\\n---'\n---\n", {}),
        ("---\nlicense: mit", {}),
        ("---\n: : [\n---\n", {}),
        ("---\n- mit\n---\n", {}),
        ("# no front matter\nlicense: mit", {}),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    ],
)
def test_what_a_base_models_card_states(tmp_path, card, known):
    (tmp_path / "README.md").write_bytes(card.encode())
    assert describe_card(tmp_path) == known


def test_a_licence_file_without_a_statement_is_another_licence(tmp_path):
    assert describe_card(tmp_path) == {}
    (tmp_path / "LICENSE").write_text("All rights reserved.")
    assert describe_card(tmp_path) == {"license": "other", "license_link": "LICENSE"}
    stated = metadata(case(base=FOLDER_BASE | {"card": describe_card(tmp_path)}))
    assert (stated["license"], stated["license_link"]) == ("other", "LICENSE")


def test_a_card_comes_back_into_a_folder_that_was_made_anew(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter_card.md").write_text("ours")
    (tmp_path / "merged_card.md").write_text("of a folder that is not there")
    (tmp_path / "adapter" / "README.md").write_text("PEFT's own")
    place_cards(tmp_path)
    assert (tmp_path / "adapter" / "README.md").read_text() == "ours"
    before = (tmp_path / "adapter" / "README.md").stat()
    place_cards(tmp_path)
    assert (tmp_path / "adapter" / "README.md").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "adapter", "adapter_card.md",
                                                                 "merged_card.md"]  # fmt: skip


def test_a_card_in_a_folder_is_no_damage_to_it(tmp_path):
    folder, manifest = tmp_path / "merged", tmp_path / "merged.manifest.json"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(manifest, "merge_adapter", [folder], {})
    (tmp_path / "merged_card.md").write_text("card")
    place_cards(tmp_path)
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert list(read_manifest(manifest)["files"]) == ["merged/model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"weight")
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert not manifest.exists()


def test_a_missing_merged_model_is_a_limit_of_the_adapter_with_its_reason():
    reason = "The merged model does not match the tuned one: logits_error 0.3 (limit 0.005)."
    found = evaluation_limits(case("adapter", merged={"files": {}, "refused": {"reason": reason}}))
    assert f"No merged model was made of it: {reason}" in found
    assert not any("is a separate folder" in limit for limit in found)
    assert any("is a separate folder" in limit for limit in evaluation_limits(case("adapter")))


def test_the_card_of_a_merged_model_says_what_its_number_format_costs():
    merged = case().merged
    check = merged["check"] | {"verdict": "rounded", "loss_change": 0.1076, "loss_change_interval": [0.08, 0.13]}
    text = render_card(case(merged=merged | {"check": check, "dtype": "bfloat16", "rounding": "nearest"}))
    assert "rounding: `nearest`" in text and "0.1076 (0.08 to 0.13)" in text
    assert "merge with `merge.dtype: float32`, or serve the adapter" in text
    assert "this dtype loses" not in render_card(case())
