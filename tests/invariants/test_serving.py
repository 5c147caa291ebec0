"""What is published is served by plain transformers and plain PEFT, in a process that has never heard of us."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_card import TINY, case, with_setting
from tiny_run import conversations, write_run

from snaketune.card.card import render_card
from snaketune.card.placing import place_card
from snaketune.card.usage import BASE_PLACEHOLDER, FOLDER_PLACEHOLDER
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.results import write_generations
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder
from snaketune.model.tiny.tiny_tokenizer import CHAT_TEMPLATE

LENGTH, REQUESTS = 7, 6
CFG = {"dtype": "auto", "max_shard_size": "5GB", "cpu_threads": 1, "attn_implementation": "sdpa"}
OWN = {"metrics": ["exact_match"], "max_samples": REQUESTS, "max_new_tokens": LENGTH, "batch_size": 4}
# Another template than the base model's, so that answers show which one is read.
TEMPLATE = CHAT_TEMPLATE.replace("<|user|>", "<|user|> red ")
PROGRAM = """
import contextlib, importlib.util, io, json, sys
assert importlib.util.find_spec("snaketune") is None
import torch
torch.set_num_threads(1)
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

work = json.load(sys.stdin)
found = {}
chats = [[{"role": "user", "content": question}] for question in work["questions"]]

serve = pipeline("text-generation", model=work["merged"])  # no length, no sampling: the folder says
found["pipeline"] = [serve(chat)[0]["generated_text"][-1]["content"] for chat in chats]
tokenizer = AutoTokenizer.from_pretrained(work["merged"])
found["prompts"] = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]

def answer(model, prompt):
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    made = model.generate(**ids)[0, ids["input_ids"].shape[1]:]
    return tokenizer.decode(made, skip_special_tokens=True)

model = AutoModelForCausalLM.from_pretrained(work["merged"])
found["merged"] = [answer(model, prompt) for prompt in work["prompts"]]
model = AutoModelForCausalLM.from_pretrained(work["base"])
found["base"] = [answer(model, prompt) for prompt in work["prompts"]]
model = PeftModel.from_pretrained(model, work["adapter"])
found["adapter"] = [answer(model, prompt) for prompt in work["prompts"]]

for name, lines in work["cards"].items():
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(lines, {})
    found[name] = told.getvalue().removesuffix("\\n")
print("FOUND" + json.dumps(found))
"""


def lines_of_card(facts, folder, base, question):
    """The Python lines of a card for given folders and a given question."""
    (lines,) = re.findall(r"```python\n(.*?)```", render_card(facts), re.DOTALL)
    given = {
        f'"{FOLDER_PLACEHOLDER}"': repr(str(folder)),
        f'"{BASE_PLACEHOLDER}"': repr(str(base)),
        '"Hello"': repr(question),
    }
    for old, new in given.items():
        lines = lines.replace(old, new)
    assert "path/to" not in lines
    return lines


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The rows of generations.jsonl, and what plain libraries answered to the same requests."""
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(12))
    settings = {"max_new_tokens": LENGTH, "do_sample": False, "eos_token_id": [2], "pad_token_id": 0}
    (run.model / "generation_config.json").write_bytes(orjson.dumps(settings))
    (run.tokens / "chat_template.jinja").write_text(TEMPLATE)
    merged = run.root / "merged"
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))
    merge_adapter(material, CFG, merged, check_merged_folder)
    for folder in (run.adapter, merged):
        (run.root / "card.md").write_text(render_card(case(folder.name, TINY)))
        assert place_card(run.root / "card.md", folder)
    evaluation = EvaluationSettings.of_slice(OWN | {"dtype": "auto", "attn_implementation": "sdpa", "cpu_threads": 1})
    found = evaluate(EvaluationInputs(run.model, run.adapter, merged, run.tokens, run.rows, run.records), evaluation)
    write_generations(run.root / "generations.jsonl", found)
    rows = [orjson.loads(line) for line in (run.root / "generations.jsonl").read_bytes().splitlines()]
    asked = [orjson.loads(line)["messages"][0]["content"] for line in run.records.read_bytes().splitlines()]
    questions = [asked[row["record"]] for row in rows]
    cards = {
        f"card of {kind}": lines_of_card(
            with_setting(case(kind, TINY), "evaluate.max_new_tokens", LENGTH), run.root / kind, base, questions[0]
        )
        # The adapter's tokenizer is the base model's; the one of the merged folder has the template in force.
        for kind, base in (("adapter", run.model), ("merged", merged))
    }
    work = {"questions": questions, "prompts": [row["prompt"] for row in rows], "cards": cards}
    work |= {"base": str(run.model), "adapter": str(run.adapter), "merged": str(merged)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        input=orjson.dumps(work),
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=run.root,
        capture_output=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return rows, orjson.loads(ended.stdout.split(b"FOUND")[1])


def test_the_merged_folder_answers_as_it_was_evaluated(served):
    rows, found = served
    assert found["merged"] == [row["merged"] for row in rows]
    assert len(set(found["merged"])) > 1


def test_the_adapter_on_its_base_answers_as_it_was_evaluated_and_as_the_merged_model(served):
    rows, found = served
    assert found["adapter"] == [row["tuned"] for row in rows] == found["merged"]
    assert found["base"] == [row["base"] for row in rows] != found["adapter"]


def test_the_pipeline_uses_the_chat_template_and_the_generation_config_of_the_folder(served):
    rows, found = served
    assert found["prompts"] == [row["prompt"] for row in rows]
    assert "<|user|> red" in found["prompts"][0]
    assert found["pipeline"] == [row["merged"] for row in rows]


def test_the_lines_of_the_cards_run_as_they_stand(served):
    rows, found = served
    assert found["card of merged"] == rows[0]["merged"]
    assert isinstance(found["card of adapter"], str) and found["card of adapter"]
