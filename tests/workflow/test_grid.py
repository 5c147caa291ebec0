"""Which jobs a grid needs: everything that its values do not touch once, and one page over all runs at the end."""

import re

from project import CONFIG, Project, record

GRID = "runs: {sweep: {grid: {train.learning_rate: [1e-3, 2e-3], tokens.max_length: [128, 256]}}}"


def test_runs_of_a_grid_share_what_their_values_do_not_touch_and_end_in_a_comparison(tmp_path):
    project = Project(tmp_path, CONFIG.replace("runs: {one: {}}", GRID).replace("max_length: 256, ", ""))
    project.raw.write_text("".join(record(number) + "\n" for number in range(60)))
    project.run("-n", "train")
    planned = dict(re.findall(r"^(\w+) +(\d+)$", project.output, re.MULTILINE))
    once = ("stage_sources", "read_records", "dedupe_records", "split_records", "tokenize_records", "prepare_model")
    assert {rule: planned[rule] for rule in (*once, "compare_runs")} == dict.fromkeys((*once, "compare_runs"), "1")
    assert (planned["rightsize"], planned["pack_rows"]) == ("2", "2")
    assert planned["train_model"] == planned["evaluate_model"] == planned["render_report"] == "4"
