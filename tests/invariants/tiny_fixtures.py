"""One base model and one set of rows, for the conftest files of the folders whose tests train."""

import pytest
from tiny_training import write_base, write_splits


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("rows"))
