import pytest

from snaketune.core.errors import DataError
from snaketune.core.manifest import write_manifest
from snaketune.evaluate.evaluation_inputs import located


def test_a_manifest_stands_for_what_lies_beside_it(tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "weights").write_bytes(b"one")
    manifest = tmp_path / "merged.manifest.json"
    write_manifest(manifest, "merge_adapter", [tmp_path / "merged"], {})
    assert located(manifest, "merged") == tmp_path / "merged"
    assert located(tmp_path / "merged", "ignored") == tmp_path / "merged"
    (tmp_path / "merged" / "weights").write_bytes(b"two")
    with pytest.raises(DataError, match="weights does not have the content"):
        located(manifest, "merged")
