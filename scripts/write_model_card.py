"""Write a model card: the README.md of an adapter or a merged model, from the fact files that the stages left.

Arguments:
    facts: JSON object: the path of each fact file by its name.
    kind: which folder the card is of: adapter or merged.
    output: Markdown file to write.
"""

from pathlib import Path

from snaketune.core.atomic import write_bytes
from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Read the facts, write the card beside the folder, and put it there."""
    arguments = parse_arguments(__doc__, "output", texts=("kind",), json=("facts",), facts=("output",))
    from snaketune.card.card import render_card
    from snaketune.card.card_facts import load_card_facts
    from snaketune.card.placing import place_card

    facts = load_card_facts(arguments.kind, arguments.facts)
    write_bytes(arguments.output, render_card(facts).encode())
    place_card(arguments.output, Path(arguments.output).with_name(arguments.kind))


if __name__ == "__main__":
    run(main)
