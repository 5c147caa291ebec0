"""A chat template in Ollama's words: found by rendering, and left out where it is not that simple."""

import pytest
from jinja2 import Environment

from snaketune.core.errors import DataError
from snaketune.merge.gguf_export.modelfile import modelfile, ollama_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin|>{% for m in messages %}<|h|>{{ m.role }}<|e|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|e|>\n\n{% endif %}"
)


def renderer(source):
    template = Environment().from_string(source)
    return lambda turns, answers: template.render(messages=turns, add_generation_prompt=answers)


def test_chatml_in_ollamas_words():
    assert ollama_template(renderer(CHATML)) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )


def test_what_the_tokenizer_writes_in_front_is_not_written_twice():
    found = ollama_template(renderer(LLAMA), "<|begin|>")
    assert found and "<|begin|>" not in found and found.endswith("{{ .Response }}<|eot|>")


@pytest.mark.parametrize(
    "source",
    [
        LLAMA,  # its first token comes once, in front of everything: not part of a turn
        CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"),
        "{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}{% endfor %}A",
        "{{ messages[-1].content }}",
    ],
)
def test_a_template_that_is_not_so_simple_is_left_to_the_file(source):
    assert ollama_template(renderer(source)) is None


def test_a_template_that_refuses_is_left_to_the_file(capsys):
    def refuse(turns, answers):
        raise DataError("no system turn here")

    assert ollama_template(refuse) is None
    assert "no system turn here" in capsys.readouterr().out


def test_the_file_names_model_template_system_and_stops():
    text = modelfile("model.gguf", "T", "Be brief.", ["<|eot|>", "\n"])
    assert text == 'FROM ./model.gguf\nTEMPLATE """T"""\nSYSTEM """Be brief."""\nPARAMETER stop "<|eot|>"\n'
