"""Licences and known vulnerabilities of the pins, without a network."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("audit", ROOT / "envs" / "audit.py")
audit = sys.modules["audit"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

RANGE = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}, {"introduced": "3.0rc1"}]}
ADVISORY = {
    "id": "PYSEC-1",
    "aliases": ["CVE-1"],
    "modified": "2026-01-02T00:00:00Z",
    "details": "Reads more than it should.\nAt length.",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "Some.Package"}, "ranges": [RANGE]}],
}


def run(monkeypatch, capsys, tmp_path, pins, *arguments):
    (tmp_path / "constraints.txt").write_text(pins)
    monkeypatch.setattr(sys, "argv", ["audit.py", "--pins", str(tmp_path / "constraints.txt"), *map(str, arguments)])
    status = audit.main()
    return status, capsys.readouterr()


def database(tmp_path, kind, *advisories):
    if kind == "folder":
        for number, advisory in enumerate(advisories):  # JSON is YAML
            place = tmp_path / "vulns" / "x" / f"{number}.yaml"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(advisory))
        return tmp_path / "vulns"
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, advisory in enumerate(advisories):
            archive.writestr(f"{number}.json", json.dumps(advisory))
    return tmp_path / "all.zip"


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.9", True), ("1.9.post1", True), ("2.0", False), ("2.5", False), ("3.0rc1", True), ("3.1", True)],
)
def test_a_pin_in_an_advisorys_range_is_named(tmp_path, monkeypatch, capsys, kind, version, affected):
    pins = f"some-package=={version} ; python_version < '4'\nother==1.0\n"
    status, said = run(monkeypatch, capsys, tmp_path, pins, "--advisories", database(tmp_path, kind, ADVISORY))
    line = f"Vulnerable: some-package=={version}: PYSEC-1 CVE-1: Reads more than it should. (fixed in 2.0)"
    assert (status == 1) == affected and (line in said.out) == affected
    assert f"{int(affected)} in 2 pins, by 1 advisories, the newest of 2026-01-02" in said.out


@pytest.mark.parametrize(
    "change",
    [
        {"withdrawn": "2026-01-01T00:00:00Z"},
        {"affected": [{"package": {"ecosystem": "npm", "name": "some-package"}, "ranges": [RANGE]}]},
        {"affected": [{"package": {"ecosystem": "PyPI", "name": "another"}, "versions": ["1.0"]}]},
        {"affected": [{"package": {"ecosystem": "PyPI", "name": "some-package"}, "versions": ["1.1"]}]},
    ],
)
def test_what_is_about_something_else_is_not(tmp_path, monkeypatch, capsys, change):
    base = database(tmp_path, "zip", {**ADVISORY, **change})
    assert run(monkeypatch, capsys, tmp_path, "some_package==1.0\n", "--advisories", base)[0] == 0


def test_a_listed_version_and_the_last_affected_one_are_found():
    entry = {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.0"}, {"last_affected": "1.2"}]}]}
    assert [audit.is_affected(version, entry) for version in ("0.9", "1.0", "1.2", "1.2.1")] == [0, 1, 1, 0]
    assert audit.is_affected("7", {"versions": ["7"], "ranges": [{"type": "GIT", "events": []}]})


def test_without_a_database_it_says_that_it_did_not_check(tmp_path, monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, tmp_path, "numpy==1.0\n")
    assert status == 0 and "Vulnerabilities: NOT CHECKED, because there is no database" in said.out


@pytest.mark.parametrize("kind", ["missing", "text", "empty folder", "damaged"])
def test_what_is_no_database_is_not_taken_for_a_clean_one(tmp_path, monkeypatch, capsys, kind):
    base = tmp_path / "base"
    if kind == "empty folder":
        base.mkdir()
    elif kind == "text":
        base.write_text("hello")
    elif kind == "damaged":
        with zipfile.ZipFile(base, "w") as archive:
            archive.writestr("a.json", "{")
    status, said = run(monkeypatch, capsys, tmp_path, "numpy==1.0\n", "--advisories", base)
    assert status == 2 and f"NOT CHECKED: {base} cannot be used" in said.err


@pytest.mark.parametrize(
    ("licence", "permitted"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-2.0", True),
        ("BSD License; GNU General Public License (GPL)", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-or-later", False),
        ("AGPL-3.0", False),
        ("MIT AND LGPL-2.1", False),
        ("Apache-2.0 WITH Commons Clause", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_that_asks_for_more_is_named(tmp_path, monkeypatch, capsys, licence, permitted):
    assert audit.is_permitted(licence) == permitted
    monkeypatch.setattr(audit, "licence_of", lambda package: licence)
    status, said = run(monkeypatch, capsys, tmp_path, "numpy==1.0\nnot-installed-anywhere==1\n")
    assert (status == 0) == permitted and ("Licence to be decided on: numpy" in said.out) != permitted
    assert "1 not installed here, not checked: not-installed-anywhere" in said.out


def test_the_licences_of_this_environment_need_no_decision(capsys):
    assert audit.audit_licences(audit.read_pins(ROOT / "constraints.txt"))
    assert "numpy" in capsys.readouterr().out
