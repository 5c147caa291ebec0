"""The page: safe against its own data, complete without its optional parts, equal for equal facts."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_case import fact_paths, facts_with, replaced

from snaketune.report.charts.curves import Curve
from snaketune.report.listed_records import DuplicatePair, LeftOutRecord, QuarantinedLine
from snaketune.report.run.answers import ShownAnswers, collect
from snaketune.report.run.page import render_run
from snaketune.report.text import excerpt, visible

SCRIPTS = Path(__file__).parents[2] / "scripts"
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x' {{ 7*7 }} \x1b[31m\u202egnp.exe\x00"
)


class Page(HTMLParser):
    """Collects elements, event attributes, and the content of scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.inline, self.words = [], [], [], []
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag in ("script", "style"):
            self._open = (tag, dict(attributes).get("type"))
            self.inline.append([*self._open, ""])

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.inline[-1][2] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(**changes):
    return Page(render_run(facts_with(**changes)))


def hostile_history():
    stage = {"stage": HOSTILE, "id": HOSTILE, "seconds": 1.0, "finished": "2026-11-20T18:00:00+00:00", "reused": False}
    before = {
        "run": HOSTILE,
        "id": HOSTILE,
        "finished": "2026-11-20T18:00:00+00:00",
        "config": {HOSTILE: HOSTILE + "x"},
    }
    return {"stages": [stage], "before": before}


def hostile_facts():
    facts = facts_with()
    piece = excerpt(HOSTILE, 400)
    line = {"record": 0, "prompt": HOSTILE, "reference": HOSTILE, "base": HOSTILE, "tuned": HOSTILE + "x"}
    setting = {"value": HOSTILE, "origin": HOSTILE}
    run = {**facts.run, "run": HOSTILE, "id": HOSTILE, "fingerprint": HOSTILE, "notes": [HOSTILE]}
    run |= {"config": {HOSTILE: setting, "data.system_prompt": setting}, "versions": {HOSTILE: HOSTILE}}
    run |= {"sources": [{"path": HOSTILE, "bytes": 1, "digest": HOSTILE}], "seeds": {HOSTILE: 1}}
    reading = {
        **facts.reading,
        "reasons": {HOSTILE: 5},
        "sources": [{"path": HOSTILE, "lines": 4412, "format": HOSTILE}],
    }
    return replaced(
        facts,
        run=run,
        reading=reading,
        tokens={**facts.tokens, "examples": [{"record": 0, "tokens": [{"text": HOSTILE, "trained": True}]}]},
        merged={"dtype": HOSTILE, "check": {"verdict": HOSTILE}},
        evaluation={"base": {HOSTILE: 1.0}, "tuned": {HOSTILE: 2.0, "n": 50}},
        quarantine=(QuarantinedLine(piece.text, HOSTILE, piece, piece),),
        duplicates=(DuplicatePair((0, 1), (7, 2), HOSTILE, 1.0, piece, piece),),
        left_out=(LeftOutRecord(HOSTILE, (0, 1), HOSTILE, piece),),
        info={**facts.info, "git": {"commit": HOSTILE, "uncommitted": HOSTILE}, "machine": {"host": HOSTILE}},
        history=hostile_history(),
        answers=collect([line]),
    )


def test_hostile_facts_add_no_element_no_handler_and_no_invisible_character():
    text = render_run(hostile_facts())
    page = Page(text)
    assert "alert(1)" in page.text
    assert "img" not in page.elements
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not any("alert" in content for _, _, content in page.inline)
    assert "{{ 7*7 }}" in page.text
    assert not set("\x1b\x00\u202e") & set(text)
    assert "\u241b[31m" in page.text
    assert "\u27e8U+202E\u27e9" in page.text


def test_only_the_digests_of_the_page_s_own_scripts_and_style_are_allowed():
    page = page_of()
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    code = [content for tag, kind, content in page.inline if tag == "style" or kind is None]
    assert len(code) == 2
    for content in code:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_is_loaded_from_anywhere():
    page = page_of()
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert all(link.startswith("#") for link in links)
    assert "link" not in page.elements
    style = next(content for tag, _, content in page.inline if tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_every_chart_is_drawn_in_the_page_and_has_its_table():
    page = page_of()
    figures = page.elements.count("figure")
    assert figures == 6  # loss, learning rate, gradient norm, throughput, two of lengths
    drawings = [value for name, value in page.attributes if name == "class" and value == "drawing"]
    assert len(drawings) == figures + 7  # the loss over tokens, time and money, and each of the four logarithmic
    assert page.text.count("The values as a table") == figures
    assert page.text.count("The losses over seconds") == 1
    names = [value for name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names)), "an id is there once"


def test_a_megabyte_is_shortened_with_a_note_of_its_length():
    line = {
        "prompt": "x" * 1_000_000,
        "reference": "r",
        "base": "b",
        "tuned": "t",
        "tuned_match": False,
        "base_match": False,
    }
    text = render_run(facts_with(answers=collect([line])))
    assert "Shortened: first 1,500 of 1,000,000 characters." in text
    assert len(text) < 400_000


def test_a_long_training_example_is_cut_with_a_note():
    tokens = {**facts_with().tokens, "examples": [{"tokens": [{"text": "ab", "trained": True}] * 100_000}]}
    page = page_of(tokens=tokens)
    assert "200,000 of 200,000 characters trained, the first 4,000 shown." in page.text


def test_visible_keeps_text_and_shows_what_hides():
    assert (
        visible("caf\u00e9 \u05d0\u05d1 \U0001f468\u200d\U0001f469 a\tb\nc")
        == "caf\u00e9 \u05d0\u05d1 \U0001f468\u200d\U0001f469 a\tb\nc"
    )
    assert visible("a\u200bb\ufeff\ud800") == "a\u27e8U+200B\u27e9b\u27e8U+FEFF\u27e9\u27e8U+D800\u27e9"


MEASURED = re.compile(r"<!-- measured:.*?<!-- end of measured -->", re.DOTALL)


def test_what_differs_between_equal_runs_is_only_in_marked_blocks():
    facts = facts_with()
    rates = {name: Curve(tuple((step, value * 2) for step, value in c.points)) for name, c in facts.rates.items()}
    progress = {step: dataclasses.replace(known, seconds=1.5 * step) for step, known in facts.progress.items()}
    info = {**facts.info, "machine": {"host": "other"}, "train": {"seconds": 7200.0}, "git": {"commit": "f" * 40}}
    other = replaced(facts, rates=rates, progress=progress, info=info, plan=None, history=None, timing={"models": {}})
    one, two = render_run(facts), render_run(other)
    assert one != two
    assert MEASURED.sub("", one) == MEASURED.sub("", two)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merged": None}, "No merged model was made in this run"),
        ({"merged": {"dtype": "float32"}}, "The merged model was not compared with the adapter."),
        ({"answers": ShownAnswers()}, "No answers were generated in this run"),
        ({"evaluation": {}}, "No model was evaluated"),
        ({"curves": {name: Curve() for name in facts_with().curves}}, "No loss was logged"),
        ({"quarantine": ()}, "No line was quarantined."),
        ({"duplicates": ()}, "No duplicates were removed."),
        ({"rightsize": {}}, "There is no length histogram"),
        ({"tokens": {}}, "There are no training examples"),
    ],
)
def test_what_is_absent_is_said_in_words(changes, words):
    assert words in page_of(**changes).text


def test_a_page_of_almost_nothing_still_renders():
    empty = {
        name: {}
        for name in ("run", "reading", "dedupe", "split", "tokens", "pack", "rightsize", "adapter", "evaluation")
    }
    page = page_of(
        **empty,
        merged=None,
        quarantine=(),
        duplicates=(),
        answers=ShownAnswers(),
        curves={n: Curve() for n in facts_with().curves},
    )
    assert "Trained, but not compared with the base model" in page.text


def test_two_processes_in_two_places_give_the_same_bytes_under_300_kilobytes(tmp_path):
    pages, tables = [], []
    for seed in ("0", "1"):
        place = tmp_path / seed
        place.mkdir()
        command = [
            sys.executable,
            str(SCRIPTS / "render_report.py"),
            "--spec",
            '{"stage":"render_report","code":"","cfg":{}}',
        ]
        command += ["--facts", json.dumps(fact_paths())]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "UTC" if seed == "0" else "Asia/Tokyo"}
        subprocess.run(
            [*command, "--table", "facts.json", "--output", "report.html"],
            cwd=place,
            env=environment,
            check=True,
            timeout=60,
        )
        pages.append((place / "report.html").read_bytes())
        tables.append((place / "facts.json").read_bytes())
    assert tables[0] == tables[1]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 300_000


def test_the_script_never_imports_torch_or_transformers():
    code = (
        "import sys, snaketune.report.run.page, snaketune.report.report_facts;"
        "sys.exit(any(name.split('.')[0] in ('torch', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SCRIPTS)}).returncode == 0
