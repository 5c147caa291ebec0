"""At least thirty architectures from preparation to evaluation, and the page on them in step."""

import pytest
from matrix import FULL, HEAD, PAGE, TRIED, adapted, entry, page
from tiny_models import names
from trip import Trip, take

from snaketune.train.kernels.attention import VARLEN


def losses_agree(found: Trip) -> None:
    """Check that training changed the model and that merging did not."""
    base, tuned, merged = (found.facts["evaluate"][name]["loss"] for name in ("base", "tuned", "merged"))
    assert tuned != base
    assert merged == pytest.approx(tuned, abs=1e-3)


@pytest.mark.parametrize("kind", TRIED)
def test_an_adapter_goes_through_every_stage_as_the_page_says(tmp_path, kind):
    found, stated = take(tmp_path, kind), entry(kind)
    assert found.error is None
    losses_agree(found)
    assert found.facts["train"]["attention"] == (VARLEN if stated.attention == "varlen" else stated.attention)
    assert ("eager mode, which keeps all attention weights" in found.printed) == (stated.attention == "eager")
    assert found.facts["prepare"]["nature"]["packing"] == stated.packing
    assert ("Packing is off, each row holds one document" in found.printed) == (not stated.packing)
    plan = found.facts["plan"]
    assert plan["memory_gb"] or any("unknown" in note for note in plan["notes"])
    assert adapted(tmp_path) == stated.targets


@pytest.mark.parametrize("kind", FULL)
def test_every_weight_goes_through_every_stage(tmp_path, kind):
    found = take(tmp_path, kind, full=True)
    assert found.error is None
    losses_agree(found)


def test_the_page_is_in_step_and_names_what_is_untried():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), "run PYTHONPATH=scripts python tests/models/matrix.py"
    assert min(len(TRIED), 30) == 30
    assert len(FULL) >= len(TRIED) // 3
    assert set(TRIED) <= set(names())
    assert all(f"`{kind}`" in text for kind in names())
    assert all(line.count("|") == len(HEAD) + 1 for line in text.splitlines() if line.startswith("| "))
