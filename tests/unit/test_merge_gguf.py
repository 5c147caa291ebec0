"""The export to GGUF: what the converter is called with, and one sentence where it cannot work."""

import json
from pathlib import Path

import pytest

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.merge.gguf_export.gguf import convert_to_gguf, find_converter

RECORDING = """import json, sys
from pathlib import Path
arguments = sys.argv[1:]
target = Path(arguments[arguments.index("--outfile") + 1])
target.write_text(json.dumps(arguments))
print("wrote", target.name)
"""


@pytest.fixture
def converter(tmp_path):
    path = tmp_path / "convert_hf_to_gguf.py"
    path.write_text(RECORDING)
    return path


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("dtype", "format"), [("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f16")])
def test_the_converter_gets_the_model_a_file_and_the_format_of_the_weights(tmp_path, converter, dtype, format):
    out = tmp_path / "out"
    out.mkdir()
    convert_to_gguf(converter, tmp_path / "merged", dtype, out / "model.gguf")
    model, *options = json.loads((out / "model.gguf").read_text())
    assert model == str(tmp_path / "merged")
    assert options[0] == "--outfile" and Path(options[1]).parent.parent == out and options[1] != str(out / "model.gguf")
    assert options[2:] == ["--outtype", format]
    assert left_in(out) == ["model.gguf"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "import sys\nopen(sys.argv[3], 'w').write('half')\nsys.exit('Model X is not supported')",
            "Model X is not supp",
        ),
        ("print('done')", "status 0: done"),
    ],
    ids=["fails half way", "writes nothing"],
)
def test_a_converter_that_fails_leaves_nothing(tmp_path, converter, text, told):
    converter.write_text(text)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.gguf").write_text("an earlier one")
    with pytest.raises(TrainingError, match=told) as raised:
        convert_to_gguf(converter, tmp_path, "float32", out / "model.gguf")
    assert "\n" not in str(raised.value)
    assert left_in(out) == ["model.gguf"] and (out / "model.gguf").read_text() == "an earlier one"


def test_the_converter_is_the_one_given_or_one_on_the_path(tmp_path, converter, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_converter(str(converter)) == converter
    with pytest.raises(ConfigError, match=r"export_gguf needs llama\.cpp's convert_hf_to_gguf\.py"):
        find_converter(None)
    converter.chmod(0o755)
    assert find_converter(None) == converter
    with pytest.raises(ConfigError, match=r"merge\.gguf_converter: .*gone\.py does not exist"):
        find_converter(str(tmp_path / "gone.py"))


def test_a_converter_may_print_any_bytes(tmp_path, converter, capsys):
    converter.write_text(RECORDING + "sys.stdout.flush()\nsys.stdout.buffer.write(bytes([0xff, 0xfe, 10]))\n")
    convert_to_gguf(converter, tmp_path / "merged", "float32", tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").is_file()
    assert "wrote model.gguf" in capsys.readouterr().out
