"""The whole page, byte for byte, charts included.

After a wanted change, regenerate it and review the difference: ``python tests/golden/report/test_report_golden.py``.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "unit"))
GOLDEN = HERE / "page.html"


def rendered() -> bytes:
    from report_case import fact_paths

    from snaketune.report.report_facts import load_facts
    from snaketune.report.run.page import render_run

    return render_run(load_facts(fact_paths())).encode()


def test_report_is_byte_identical_to_the_golden_page():
    assert rendered() == GOLDEN.read_bytes()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2] / "scripts"))
    GOLDEN.write_bytes(rendered())
