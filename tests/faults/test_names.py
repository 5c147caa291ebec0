"""Texts of the configuration that no file can be called: a template, or a sentence, never an error of the system."""

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.workflow.sources.inputs import ExternalInputs

LONG = "x" * 256
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}" * 5


def look_up(tmp_path, **changes):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    values = {"data": {"sources": [str(tmp_path / "a.jsonl")]}, "model": {"name_or_path": "tiny"}}
    for key, value in changes.items():
        section, name = key.split("__")
        values.setdefault(section, {})[name] = value
    (run,) = resolve_runs(Layer("c", values), {}, tmp_path)
    ExternalInputs(tmp_path / "digests.json").look_up(run.config)


@pytest.mark.parametrize("template", [TEMPLATE, "{{ messages }}" + "/" * 5000, "{{ 'ä' }}" * 60])
def test_a_template_in_the_configuration_may_be_long(tmp_path, template):
    look_up(tmp_path, tokens__chat_template=template)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__sources", [LONG + ".jsonl"]),
        ("data__sources", [LONG + "*.jsonl"]),
        ("data__sources", ["folder/" * 1000 + "a.jsonl"]),
        ("data__sources", ["a\0b.jsonl"]),
        ("evaluate__files", [LONG + ".jsonl"]),
        ("evaluate__tasks", [LONG + ".yaml"]),
        ("split__decontaminate", [LONG + ".txt"]),
        ("model__name_or_path", LONG),
        ("model__name_or_path", "a\0b"),
    ],
)
def test_what_no_file_can_be_called_is_a_sentence(tmp_path, key, value):
    with pytest.raises(
        ConfigError, match=rf"^{key.replace('__', '.')}: .* cannot be a path: a name in it is longer than"
    ):
        look_up(tmp_path, **{key: value})
