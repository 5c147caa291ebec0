"""Tasks of lm-evaluation-harness; those that run them need the optional package."""

import orjson
import pytest
import torch
from tiny_run import conversations, write_run

from snaketune.core.digests import file_digest
from snaketune.core.errors import ConfigError
from snaketune.evaluate.evaluation import EvaluationInputs, EvaluationSettings, evaluate
from snaketune.evaluate.harness import run_tasks

TASK = """task: lamps
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""


@pytest.fixture
def entry(tmp_path, monkeypatch):
    data = tmp_path / "lamps.jsonl"
    lines = [{"question": text, "choices": [" one", " two"], "answer": place % 2} for place, text in enumerate("abcd")]
    data.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    path = tmp_path / "lamps.yaml"
    path.write_text(TASK.format(data=data))
    return {"path": str(path), "digest": file_digest(path)}


def test_a_task_file_that_changed_is_refused(entry):
    with pytest.raises(ConfigError, match=r"evaluate\.tasks: .*lamps\.yaml changed during the run"):
        run_tasks(None, None, [entry | {"digest": "0"}], 1)


def test_tasks_are_run_on_base_and_tuned_model_and_filed_with_their_version(entry, tmp_path):
    pytest.importorskip("lm_eval")
    torch.set_num_threads(1)
    run = write_run(tmp_path / "run", conversations(4))
    own = {"metrics": ["loss"], "max_samples": 0, "max_new_tokens": 1, "batch_size": 2}
    settings = EvaluationSettings.of_slice({"evaluate": own, "evaluation_tasks": [entry]})
    found = evaluate(EvaluationInputs(run.model, run.adapter, None, run.tokens, run.rows, run.records), settings)
    lamps = found.facts["tasks"]["lamps"]
    assert (lamps["version"], lamps["n"]) == (1.5, 4)
    assert set(lamps) == {"version", "n", "base", "tuned"}
    assert 0 <= lamps["tuned"]["acc,none"] <= 1


def test_a_task_that_the_harness_refuses_is_one_sentence(entry, tmp_path):
    pytest.importorskip("lm_eval")
    path = tmp_path / "broken.yaml"
    path.write_text("task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n")
    with pytest.raises(ConfigError, match=r"evaluate\.tasks: lm-evaluation-harness cannot run .*broken\.yaml"):
        run_tasks(torch.nn.Linear(1, 1), None, [{"path": str(path), "digest": file_digest(path)}], 1)
