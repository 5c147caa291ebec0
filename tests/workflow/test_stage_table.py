"""A stage is added with one row, one rule and one script: everything that treats stages alike reads the table."""

import json

import pytest
from project import Project, record

ROW = """    Stage(
        "count_words",
        "data",
        keys=("split.seed",),
        parents=after("split_records"),
        is_timed=True,
        is_local=True,
        label="words",
        title="Counting words",
    ),
"""
RULE = """

rule count_words:
    input:
        records=INPUTS.made_by("split_records", "train.jsonl"),
    output:
        manifest="<results>/data/count_words/{id}/manifest.json",
    log:
        "logs/count_words/{id}.log",
    benchmark:
        "benchmarks/count_words/{id}.tsv"
    params:
        spec=PARAMS.spec("count_words"),
    shell:
        "python scripts/count_words.py --spec {params.spec:q} --records {input.records:q}"
        " --manifest {output.manifest:q} 2>&1 | tee {log:q}"
"""
SCRIPT = '''"""Count the words of the records.

Arguments:
    records: canonical records to count in.
    manifest: manifest to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run
from snaketune.core.manifest import write_manifest


def main() -> None:
    arguments = parse_arguments(__doc__, "records", "manifest", facts=("manifest",))
    words = len(Path(arguments.records).read_text().split())
    write_manifest(arguments.manifest, "count_words", [], {"words": words})


run(main)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("stage"))
    project.raw.write_text("\n".join(record(number) for number in range(40)))
    table = project.folder / "scripts/snaketune/workflow/stage_table.py"
    last = '    Stage(\n        "prepare_tokenizer"'
    text = table.read_text()
    assert last in text
    table.write_text(text.replace(last, ROW + last))
    rules = project.folder / "rules/data.smk"
    rules.write_text(rules.read_text() + RULE)
    (project.folder / "scripts/count_words.py").write_text(SCRIPT)
    return project


def test_a_row_a_rule_and_a_script_make_a_stage(project):
    project.run("-n", "data")
    assert "rule count_words" in project.output, "the target of all data asks for every row's results"
    assert project.run("--until", "count_words") >= {"split_records", "count_words"}
    [manifest] = project.folder.glob("results/data/count_words/*/manifest.json")
    assert json.loads(manifest.read_text())["words"] > 40
    assert [line for line in project.screen.splitlines() if line.startswith("words  ")]
    assert list(project.folder.glob("benchmarks/count_words/*.tsv"))
    # Its own keys alone change its id, and nothing before it runs again.
    assert project.run("--until", "count_words", "--config", "split={seed: 8}") == {"split_records", "count_words"}
