"""Ask base and tuned model the same: one question, or a conversation in the terminal.

Arguments:
    transcript: text file that the conversation is appended to.
"""

import sys
from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Load both models, answer what is asked, and keep a transcript."""
    arguments = parse_arguments(__doc__, "transcript")
    from snaketune.ask.conversation import Conversation, with_system
    from snaketune.ask.request import read_request
    from snaketune.evaluate.models import ModelSettings
    from snaketune.evaluate.talking import ModelPlaces, Talking

    cfg = arguments.cfg
    folders = {name: Path(cfg[name]) for name in ("base", "adapter", "tokens")}
    merged = Path(cfg["merged"]) if cfg["merged"] else None
    models = Talking(ModelPlaces(**folders, merged=merged), ModelSettings.of_slice(cfg))
    request = with_system(read_request(cfg["request"]), cfg["system"])
    with open(arguments.transcript, "a", encoding="utf-8") as transcript:
        conversation = Conversation(models, request, lambda text: print(text, file=transcript, flush=True))
        if request.question is None:
            conversation.talk(sys.stdin, sys.stdin.isatty())
        else:
            conversation.ask(request.question)


if __name__ == "__main__":
    run(main)
