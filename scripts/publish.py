"""Publish runs: upload what changed of their folders to the hub or to object storage, checked and in a safe order.

Arguments:
    settings: operational settings: scratch, threads, work.
"""

from pathlib import Path

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Publish the runs one after the other."""
    arguments = parse_arguments(__doc__, "settings")
    from snaketune.publish.hub import is_hub, publish_to_hub
    from snaketune.publish.publishing import publish_folder
    from snaketune.storage.object_storage import connect

    on_hub = [entry for entry in arguments.cfg["runs"] if is_hub(entry["url"])]
    for entry in on_hub:
        from huggingface_hub import HfApi

        sent = publish_to_hub(HfApi(), Path(entry["folder"]), entry["url"], arguments.cfg["private"])
        print(f"Published {entry['url']}: {sent.files} files, {sent.removed} removed: {sent.page}", flush=True)
    if on_hub:
        return
    work = Path(arguments.settings["work"]) / "publish"
    client = connect()
    for entry in arguments.cfg["runs"]:
        done = publish_folder(client, Path(entry["folder"]), entry["url"], work, print)
        print(
            f"Published {entry['url']}: {done.files} of {done.total} files uploaded ({done.bytes / 1e6:,.1f} MB),"
            f" {done.removed} removed.",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
