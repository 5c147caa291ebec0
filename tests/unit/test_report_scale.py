"""A run of a million records and 10,000 steps still gives a small page with every spike."""

import random
from pathlib import Path

import orjson
import pytest
from report_case import fact_paths

from snaketune.report.report_facts import load_facts
from snaketune.report.run.page import render_run

STEPS = 10_000
SPIKE = 7_777


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("large"), fact_paths()
    noise = random.Random(0)

    def write(name, lines):
        paths[name] = str(folder / f"{name}.jsonl")
        with open(paths[name], "wb") as file:
            file.writelines(orjson.dumps(line) + b"\n" for line in lines)

    def metrics(step):
        loss = 1000.0 if step == SPIKE else 2.0 + noise.random()
        rates = {"tokens_per_second": 9e4 + noise.random(), "mfu": 0.4, "memory_gb": 60.0, "compute_seconds": 0.9}
        measured = {"loss": loss, "grad_norm": noise.random(), "learning_rate": 1e-4, "tokens": 8192 * step}
        return {"step": step, **measured, **rates}

    texts = [f"{noise.random()} " * 20 for _ in range(500)]
    write("metrics", (metrics(step) for step in range(1, STEPS + 1)))
    pair = {"removed": {"source": 0, "line": 1}, "kept": {"source": 0, "line": 2}, "kind": "near", "similarity": 0.9}
    write("duplicates", ({**pair, "text": texts[n % 500], "kept_text": texts[n % 499]} for n in range(100_000)))
    bad = {"path": "a.jsonl", "reason": "not_json", "detail": "not a JSON"}
    write("quarantine", ({**bad, "line": n, "raw": texts[n % 500]} for n in range(20_000)))
    answer = {"base": "a", "tuned": "b", "base_match": False, "tuned_match": True}
    write(
        "generations",
        ({"record": n, "prompt": texts[n % 500], "reference": "b" * 2000, **answer} for n in range(20_000)),
    )
    reading = orjson.loads(Path(paths["reading"]).read_bytes())
    reading |= {"records": 1_000_000, "sources": [{"path": f"part-{n}.jsonl", "lines": 10_000} for n in range(100)]}
    paths["reading"] = str(folder / "reading.json")
    (folder / "reading.json").write_bytes(orjson.dumps(reading))
    return paths


def test_it_takes_a_megabyte_at_most_and_keeps_the_spike(paths):
    page = render_run(load_facts(paths))
    assert len(page.encode()) < 1_000_000
    assert f" {SPIKE},1000 " in page
    assert "1,000,000" in page
