"""The card as README.md of the folder that it is about, also after the folder was made anew."""

from pathlib import Path

from snaketune.core.atomic import write_bytes

KINDS = ("adapter", "merged")
"""Folders of a run that have a card."""

README = "README.md"


def place_card(card: str | Path, folder: str | Path) -> bool:
    """Put the content of ``card`` into ``folder`` where it is missing or different; tell whether that was so.

    Nothing happens without the card or the folder. No manifest lists the read-me, so that no check misses it.
    """
    card, target = Path(card), Path(folder) / README
    if not card.is_file() or not target.parent.is_dir():
        return False
    content = card.read_bytes()
    if target.is_file() and target.read_bytes() == content:
        return False
    write_bytes(target, content)
    return True
