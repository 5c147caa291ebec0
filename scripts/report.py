"""Write a page for every unfinished configured run, and print where the reports of the finished ones are."""

from snaketune.core.cli import parse_arguments, run


def main() -> None:
    """Write a page or a line for each run of the spec; nothing is trained."""
    arguments = parse_arguments(__doc__)
    from snaketune.report.unfinished.unfinished_page import write_page
    from snaketune.workflow.results.finished import UNFINISHED, is_finished

    for found in arguments.cfg["runs"]:
        if is_finished(found["files"]):
            print(f"{found['run']} is finished: {found['folder']}/report.html", flush=True)
        else:
            write_page(found, arguments.cfg["work"], arguments.cfg["command"], UNFINISHED)


if __name__ == "__main__":
    run(main)
