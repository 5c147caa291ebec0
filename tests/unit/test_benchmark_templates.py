"""The judge of the walk over templates: it passes right masks and sees wrong ones."""

import sys
from pathlib import Path

import pytest

from snaketune.data.templates.turns import AnswerPrompt, Turns

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "tests" / "golden" / "templates" / "hermes.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def walk():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import templates

    base = templates.base_tokenizer()
    yield lambda path, source: {one["record"]: one for one in templates.walk(source, base, path)}
    sys.path.remove(str(ROOT / "benchmarks"))


def test_a_right_mask_is_exact_and_what_a_template_refuses_is_told(walk, tmp_path):
    found = walk(tmp_path, TEMPLATE)
    assert {found[name]["outcome"] for name in ("single", "multi", "system", "tools", "think")} == {"exact"}
    assert found["reasoning"]["outcome"] == "counted"
    assert "name of a turn" in found["named"]["why"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            lambda turn: AnswerPrompt(turn.prompt.removesuffix("assistant\n"), "assistant\n" + turn.answer),
            "no prompt of inference ends there",
        ),
        (lambda turn: AnswerPrompt(turn.prompt, turn.answer[5:]), "is not trained"),
    ],
    ids=["the role", "words left out"],
)
def test_a_wrong_mask_is_seen(walk, tmp_path, monkeypatch, broken, said):
    whole = Turns.turn
    monkeypatch.setattr(Turns, "turn", lambda self, *given: broken(whole(self, *given)))
    monkeypatch.setattr("snaketune.data.templates.examples.check_text_written", lambda *_: None)
    assert said in walk(tmp_path, TEMPLATE)["single"]["why"]
