"""Write the merged model as one GGUF file for llama.cpp and Ollama, check it, and put a Modelfile beside it.

Arguments:
    settings: operational settings: the converter of llama.cpp, if one is configured.
    merged: merge.json of the run.
    rows: manifest of the packed rows, to compare the models on.
    kind: type of the file with a dash in front; empty for that of the model.
    output: GGUF file to write.
    modelfile: Modelfile for Ollama to write.
    facts: JSON file of the comparison to write.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Check the merged model, write the file and compare it."""
    names = ("settings", "merged", "rows", "output", "modelfile", "facts")
    arguments = parse_arguments(__doc__, *names, texts=("kind",))
    from snaketune.core.atomic import write_bytes, write_json
    from snaketune.core.manifest import read_manifest
    from snaketune.data.rows.packed_rows import PackedRows
    from snaketune.merge.gguf_export.exporting import Export, check, export
    from snaketune.merge.gguf_export.modelfile import modelfile, template_and_stops
    from snaketune.merge.outcome import accepted

    accepted(arguments.merged)
    manifest, model = read_manifest(arguments.merged), Path(arguments.merged).parent / "merged"
    target, kind = Path(arguments.output), arguments.kind.lstrip("-")
    wanted = Export(model, manifest["dtype"], kind or None)
    export(wanted, arguments.settings["gguf_converter"], target)
    facts = check(wanted, target, PackedRows(Path(arguments.rows).parent / "eval.arrow"))
    template, stops = template_and_stops(model)
    text = modelfile(target.name, template, arguments.cfg["system"], stops)
    write_bytes(arguments.modelfile, text.encode())
    write_json(arguments.facts, {"type": wanted.type, "bytes": target.stat().st_size, **facts})


if __name__ == "__main__":
    run(main)
