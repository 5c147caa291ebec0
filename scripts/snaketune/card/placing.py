"""Placement of the card as README.md in its folder, again whenever the folder is rebuilt."""

from pathlib import Path

from snaketune.core.atomic import write_bytes

CARD_KINDS = ("adapter", "merged")
"""Folders of a run that have a card."""

README = "README.md"


def place_card(card: str | Path, folder: str | Path) -> bool:
    """Copy ``card`` into ``folder`` if it is missing there or differs; return whether it was copied.

    Without the card or the folder nothing happens. No manifest lists the README, so no check fails without it.
    """
    card, target = Path(card), Path(folder) / README
    if not card.is_file() or not target.parent.is_dir():
        return False
    content = card.read_bytes()
    if target.is_file() and target.read_bytes() == content:
        return False
    write_bytes(target, content)
    return True
