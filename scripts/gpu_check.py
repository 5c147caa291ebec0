"""Check whether this machine's GPU is fit for training: writes gpu_check.json and gpu_check.html, exit status 1 if not.

It downloads nothing, takes about six minutes, and runs where torch, transformers, peft, accelerate, pyarrow and orjson
are installed, without the rest of the workflow. Without a GPU it runs in a reduced form, says so and ends with status
1; --allow-cpu makes that status 0.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    """Run all checks and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/gpu_check"), help="folder for both files")
    parser.add_argument("--allow-cpu", action="store_true", help="exit with status 0 even without a GPU")
    arguments = parser.parse_args()
    from snaketune.core.gpus import take_cards

    take_cards()
    from snaketune.train.fitness.examining import check_card

    return check_card(arguments.output, arguments.allow_cpu)


if __name__ == "__main__":
    sys.exit(main())
