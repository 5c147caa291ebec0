"""Convert the merged model to one GGUF file for llama.cpp, with llama.cpp's own converter."""

from pathlib import Path

from snaketune.common.door import parse_arguments, run


def main() -> None:
    """Find the converter, check the merged model and convert it."""
    arguments = parse_arguments(__doc__, "settings", "merged", "output")
    from snaketune.common.manifest import read_manifest
    from snaketune.merge.gguf import convert_to_gguf, find_converter
    from snaketune.merge.outcome import accepted

    converter = find_converter(arguments.settings["gguf_converter"])
    accepted(arguments.merged)
    manifest = read_manifest(arguments.merged)
    convert_to_gguf(converter, Path(arguments.merged).parent / "merged", manifest["dtype"], Path(arguments.output))


if __name__ == "__main__":
    run(main)
