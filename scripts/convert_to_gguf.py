"""Write the merged model as one GGUF file for llama.cpp and Ollama, check it, and add a Modelfile.

Arguments:
    settings: operational settings: the converter of llama.cpp, if one is configured.
    merged: merge.json of the run.
    rows: manifest of the packed rows, to compare the models on.
    kind: type of the file with a dash in front; empty for that of the model.
    output: GGUF file to write.
    modelfile: Modelfile for Ollama to write.
    facts: JSON file of the comparison to write.
"""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Check the merged model, write the file and compare it."""
    names = ("settings", "merged", "rows", "output", "modelfile", "facts")
    arguments = parse_arguments(__doc__, *names, texts=("kind",))
    from snaketune.merge.gguf_export.modelfile import ExportJob, export_run

    export_run(ExportJob(**vars(arguments)))


if __name__ == "__main__":
    run(main)
