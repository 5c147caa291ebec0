"""Processes that train together: what is said when one of them does not come."""

import pytest
import torch.distributed as dist

from snaketune.common.errors import TrainingError
from snaketune.train.team import Team

ABSENT = [
    ("[Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 1800000 ms", "for process 1, 3:"),
    ("Rank 2 failed to pass monitoredBarrier in 1800000 ms", "for process 2:"),
    ("Connection closed by peer [10.0.0.2]:4321", r"for another process \(Connection closed by peer"),
]


@pytest.mark.parametrize(("said", "words"), ABSENT)
def test_a_process_that_does_not_come_is_named(monkeypatch, said, words):
    def absent(*arguments, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(dist, "new_group", lambda **options: object())
    for name in ("monitored_barrier", "all_reduce"):
        monkeypatch.setattr(dist, name, absent)
    team = Team(0, 4)
    for meet in (team.wait, lambda: team.any(True)):
        with pytest.raises(TrainingError, match=rf"process 0 of 4 waited in vain {words}.*goes on from the last"):
            meet()


def test_a_process_alone_waits_for_nobody():
    Team().wait()
