"""What became of a merge, as a fact: made, refused for good, or failed for a reason of the machine."""

import pytest

from snaketune.core.canonical import read_json
from snaketune.core.errors import ConfigError, DataError, DiskFullError, TrainingError
from snaketune.merge.outcome import accepted, attempt, is_to_be_repeated, merged_folder, refusal_of
from snaketune.workflow.results.damage import heal


def fails(error):
    def merge():
        raise error

    return merge


def makes(folder):
    def merge():
        folder.mkdir()
        (folder / "weights").write_bytes(b"1")
        return {"dtype": "bfloat16"}

    return merge


def test_a_merge_that_was_made_is_a_manifest_of_its_files(tmp_path):
    facts = tmp_path / "merge.json"
    attempt(makes(tmp_path / "merged"), tmp_path / "merged", facts)
    assert list(accepted(facts)["files"]) == ["merged/weights"] and accepted(facts)["stage"] == "merge_adapter"
    assert merged_folder(facts) == tmp_path / "merged" and not is_to_be_repeated(facts)
    (tmp_path / "merged" / "weights").write_bytes(b"2")
    with pytest.raises(DataError, match="does not have the content"):
        merged_folder(facts)


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (TrainingError("The merged model does not match the tuned one."), TrainingError, False),
        (ConfigError("the base model is quantised"), ConfigError, False),
        (TrainingError("x differs from what was merged: the disk is at fault, try again."), TrainingError, True),
        (DiskFullError("results: the disk is full"), DiskFullError, True),
        (OSError(28, "No space left on device", "x"), TrainingError, True),
        (MemoryError(), TrainingError, True),
        (RuntimeError("DefaultCPUAllocator: not enough memory\nmore"), TrainingError, True),
    ],
)
def test_a_merge_that_was_not_made_is_a_fact_with_a_sentence(tmp_path, capsys, error, kind, again):
    facts, folder = tmp_path / "merge.json", tmp_path / "merged"
    folder.mkdir()
    attempt(fails(error), folder, facts)
    assert not folder.exists() and read_json(facts)["files"] == {}
    assert merged_folder(facts) is None and is_to_be_repeated(facts) == again
    reason = refusal_of(read_json(facts))
    assert reason and "\n" not in reason and capsys.readouterr().err.endswith(f"{reason}\n")
    with pytest.raises(kind, match="The rest of the run is complete"):
        accepted(facts)


@pytest.mark.parametrize("is_final", [True, False])
def test_the_next_command_repeats_what_failed_by_circumstances(tmp_path, capsys, is_final):
    facts = tmp_path / "run" / "merge.json"
    facts.parent.mkdir()
    error = TrainingError("the check died: free some memory" + ("." if is_final else " and try again."))
    attempt(fails(error), tmp_path / "run" / "merged", facts)
    heal([str(facts)], tmp_path / "work")
    assert facts.is_file() == is_final
    assert ("the merge is retried" in capsys.readouterr().err) == (not is_final)


def test_an_interrupt_is_no_outcome(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        attempt(fails(KeyboardInterrupt()), tmp_path / "merged", tmp_path / "merge.json")
    assert not (tmp_path / "merge.json").exists()


def test_facts_that_cannot_be_read_are_not_repeated_here(tmp_path):
    for content in ("", "[]", '{"refused": 3}', "{}"):
        (tmp_path / "merge.json").write_text(content)
        assert not is_to_be_repeated(tmp_path / "merge.json")
    assert not is_to_be_repeated(tmp_path / "none.json")
    assert refusal_of(None) == refusal_of({}) == ""
    assert merged_folder(None) is None and merged_folder(tmp_path) == tmp_path
