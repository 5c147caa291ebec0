"""What stages keep for each record: arrays of a few bytes, never a Python object."""

import io
import tracemalloc

import numpy as np
import pytest

from snaketune.data.rows.packing import pack
from snaketune.data.split import sampling
from snaketune.data.split.splitting import write_splits

RECORDS = 50_000


class Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def write(self, content):
        return len(content)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "records.jsonl"
    path.write_bytes(b"".join(b'{"source":0,"line":%d,"text":"a"}\n' % number for number in range(RECORDS)))
    return path


def packed(path):
    pack(np.random.default_rng(0).integers(1, 400, RECORDS).astype(np.int32), 400)


def split(path):
    write_splits((np.arange(RECORDS) % 20 == 0).astype(np.int8), path, Nowhere(), Nowhere())


def sampled(path):
    sampling._hashes(path, 1)


@pytest.mark.parametrize("stage, most", [(packed, 72), (split, 18), (sampled, 35)])
def test_a_record_takes_few_bytes(records, stage, most):
    tracemalloc.start()
    stage(records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / RECORDS < most
