"""Licences and known vulnerabilities of the pins, without a network."""

import json
import sys
import zipfile
from pathlib import Path

import advisories
import audit
import pytest

ROOT = Path(__file__).parents[2]
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
    line = f"Vulnerable: some-package=={version}: CVE-1 PYSEC-1: Reads more than it should. (fixed in 2.0)"
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


PACKAGE = {"ecosystem": "PyPI", "name": "some-package"}


def events(*pairs, kind="ECOSYSTEM"):
    return {"type": kind, "events": [{name: place} for name, place in pairs]}


@pytest.mark.parametrize(
    ("entry", "affected"),
    [
        ({"ranges": [events(("introduced", "1.0"), ("last_affected", "1.2"))]}, "1.0 1.2"),
        ({"ranges": [events(("introduced", "1.2"), ("last_affected", "1.2"))]}, "1.2"),
        ({"ranges": [events(("last_affected", "1.2"), ("introduced", "1.2"))]}, "1.2"),
        ({"ranges": [events(("fixed", "1.0"), ("introduced", "0"))]}, "0.9 1.0.dev1"),
        ({"ranges": [events(("introduced", "0"), ("fixed", "0.9"), ("introduced", "1.2"), ("fixed", "1.2.1"))]}, "1.2"),
        ({"ranges": [events(("introduced", "0"), kind="SEMVER")]}, "0.9 1.0 1.0.dev1 1.2 1.2.1"),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0", "fixed": "1.0"}]}]}, "0.9 1.0.dev1"),
        ({"ranges": [events(("introduced", "0"), ("limit", "1.0"))]}, "0.9 1.0.dev1"),
        ({"ranges": [events(("introduced", "0"), ("limit", "*"))]}, "0.9 1.0 1.0.dev1 1.2 1.2.1"),
        ({"versions": ["1.0.0", "v1.2"], "ranges": [events(("introduced", "abc"), kind="GIT")]}, "1.0 1.2"),
        ({"versions": ["1.0", "nonsense"]}, "1.0"),
    ],
)
def test_versions_are_judged_as_the_format_says(entry, affected):
    versions = ("0.9", "1.0", "1.0.dev1", "1.2", "1.2.1")
    verdicts = {version: advisories.is_affected(version, entry) for version in versions}
    assert {version for version, (is_in, doubt) in verdicts.items() if is_in} == {*affected.split()}
    assert not any(doubt for _, doubt in verdicts.values())


@pytest.mark.parametrize(
    ("entry", "doubt"),
    [
        ({}, "it lists no versions"),
        ({"versions": None, "ranges": None}, "it lists no versions"),
        ({"ranges": [events(("introduced", "0"), kind="GIT")]}, "it lists no versions"),
        ({"ranges": [events(("introduced", "0"), ("fixed", "the next one"))]}, "a range names no version"),
        ({"ranges": [{"type": "ECOSYSTEM", "events": []}]}, "a range names no version"),
    ],
)
def test_what_cannot_be_judged_is_named_and_fails(tmp_path, monkeypatch, capsys, entry, doubt):
    base = database(tmp_path, "zip", {**ADVISORY, "affected": [{"package": PACKAGE, **entry}]})
    status, said = run(monkeypatch, capsys, tmp_path, "some-package==1.0\n", "--advisories", base)
    assert status == 1 and f"Not judged, because {doubt}: some-package==1.0: CVE-1 PYSEC-1" in said.out


def test_advisories_that_are_aliases_are_one_finding(tmp_path, monkeypatch, capsys):
    unclear = {"package": PACKAGE, "ranges": [events(("introduced", "0"), kind="GIT")]}
    clear = {"package": PACKAGE, "ranges": [events(("introduced", "0"), ("fixed", "2.0"))]}
    base = database(
        tmp_path,
        "zip",
        {"id": "GHSA-1", "aliases": ["CVE-1"], "affected": [unclear]},
        {"id": "PYSEC-1", "aliases": ["CVE-1", "GHSA-1"], "summary": "Bad.", "affected": [clear, clear]},
        {"id": "GHSA-2", "affected": [clear]},
    )
    status, said = run(monkeypatch, capsys, tmp_path, "some-package==1.0\n", "--advisories", base)
    assert status == 1 and "Vulnerabilities: 2 in 1 pins, by 3 advisories" in said.out
    assert "Vulnerable: some-package==1.0: CVE-1 GHSA-1 PYSEC-1: Bad. (fixed in 2.0)" in said.out


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"id": "X", "affected": 3}',
        b'{"id": "X", "affected": [null]}',
        b'{"id": "X", "affected": [{"package": 3}]}',
        b'{"id": "X", "affected": [{"package": {"ecosystem": "PyPI", "name": 3}}]}',
        b'{"id": "X", "affected": [{"package": {"ecosystem": "PyPI", "name": "numpy"}, "ranges": 1}]}',
        b'{"id": "X", "affected": [{"package": {"ecosystem": "PyPI", "name": "numpy"}, "versions": "1.0"}]}',
        b" " * (advisories.MOST_BYTES + 1),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_checked(tmp_path, monkeypatch, capsys, content):
    base = database(tmp_path, "zip", ADVISORY)
    with zipfile.ZipFile(base, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("odd.json", content)
        archive.writestr("readme.txt", "no advisory")
        archive.writestr("other.json", "[]")
    status, said = run(monkeypatch, capsys, tmp_path, "some-package==1.0\nnumpy==1.0\n", "--advisories", base)
    assert status == 1 and "Vulnerable: some-package==1.0" in said.out and "Not read: odd.json (" in said.out
    assert "1 files of the database could not be read" in said.out


def test_the_files_of_osv_as_they_are_published(tmp_path, monkeypatch, capsys):
    """PyPI's all.zip: files at its root, a record by GitHub and one by PyPA, a withdrawn one, malware."""
    package = {"ecosystem": "PyPI", "name": "Some_Package", "purl": "pkg:pypi/some-package"}
    common = {"schema_version": "1.7.3", "modified": "2026-05-04T03:02:01.5Z", "published": "2025-01-01T00:00:00Z"}
    github = {
        **common,
        "id": "GHSA-aaaa-bbbb-cccc",
        "aliases": ["CVE-2025-1", "PYSEC-2025-7"],
        "summary": "Some_Package reads too much",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N"}],
        "references": [{"type": "WEB", "url": "https://example.org"}],
        "database_specific": {"cwe_ids": ["CWE-22"], "severity": "HIGH", "github_reviewed": True},
        "affected": [
            {
                "package": package,
                "ranges": [events(("introduced", "1.0"), ("fixed", "1.4"))],
                "versions": ["1.0", "1.1", "1.3"],
                "database_specific": {"source": "https://example.org/a.json"},
            },
            {"package": package, "ranges": [events(("introduced", "2.0"))], "versions": ["2.0", "2.1"]},
        ],
    }
    commits = {"type": "GIT", "repo": "https://example.org/a", "events": [{"introduced": "0"}, {"fixed": "ab" * 20}]}
    pypa = {
        **common,
        "id": "PYSEC-2025-7",
        "aliases": ["CVE-2025-1", "GHSA-aaaa-bbbb-cccc"],
        "details": "Some_Package reads too much, at length.",
        "affected": [
            {
                "package": package,
                "ranges": [commits, events(("introduced", "1.0"), ("fixed", "1.4"))],
                "versions": ["1.0"],
            }
        ],
    }
    withdrawn = {**github, "id": "GHSA-wwww-wwww-wwww", "aliases": [], "withdrawn": "2026-01-01T00:00:00Z"}
    malware = {**common, "id": "MAL-2025-1", "affected": [{"package": package, "versions": ["6.6.6"]}]}
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for advisory in (github, pypa, withdrawn, malware):
            archive.writestr(f"{advisory['id']}.json", json.dumps(advisory, indent=2))
    arguments = ("--advisories", tmp_path / "all.zip")
    status, said = run(monkeypatch, capsys, tmp_path, "some-package==1.1\n", *arguments)
    names = "CVE-2025-1 GHSA-aaaa-bbbb-cccc PYSEC-2025-7"
    assert f"Vulnerable: some-package==1.1: {names}: Some_Package reads too much (fixed in 1.4)" in said.out
    assert status == 1 and "1 in 1 pins, by 4 advisories, the newest of 2026-05-04" in said.out
    assert run(monkeypatch, capsys, tmp_path, "some-package==1.4\n", *arguments)[0] == 0
    assert run(monkeypatch, capsys, tmp_path, "some-package==2.2\n", *arguments)[0] == 1
    assert "MAL-2025-1" in run(monkeypatch, capsys, tmp_path, "some-package==6.6.6\n", *arguments)[1].out


def test_a_database_of_thousands_of_advisories(tmp_path, monkeypatch, capsys):
    def advisory(number):
        ranges = [events(("introduced", f"{number % 7}"), ("fixed", f"{number % 7 + 1}.{number % 5}")), RANGE]
        versions = [f"{major}.{minor}.post{number % 3}" for major in range(9) for minor in range(9)]
        entry = {"package": {"ecosystem": "PyPI", "name": f"package_{number % 1000}"}, "ranges": ranges}
        more = {"withdrawn": "2024-01-01T00:00:00Z"} if number % 11 == 0 else {}
        other = {"package": {"ecosystem": "npm", "name": f"package-{number % 1000}"}}
        return {"id": f"A-{number}", "affected": [other, {**entry, "versions": versions if number % 2 else []}], **more}

    base = database(tmp_path, "zip", *map(advisory, range(5000)))
    pins = "".join(f"package-{number}==2.5\n" for number in range(0, 1000, 50))
    status, said = run(monkeypatch, capsys, tmp_path, pins, "--advisories", base)
    expected = sum(
        number % 11 != 0 and number % 7 <= 2.5 < float(f"{number % 7 + 1}.{number % 5}")
        for number in range(0, 5000, 50)
    )
    assert status == 1 and f"Vulnerabilities: {expected} in 20 pins, by 5,000 advisories" in said.out


def test_without_a_database_it_says_that_it_did_not_check(tmp_path, monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, tmp_path, "numpy==1.0\n")
    assert status == 0 and "Vulnerabilities: NOT CHECKED, because there is no database" in said.out


@pytest.mark.parametrize("kind", ["missing", "text", "empty folder", "damaged", "no advisory"])
def test_what_is_no_database_is_not_taken_for_a_clean_one(tmp_path, monkeypatch, capsys, kind):
    base = tmp_path / "base"
    if kind == "empty folder":
        base.mkdir()
    elif kind == "text":
        base.write_text("hello")
    elif kind == "damaged":
        with zipfile.ZipFile(base, "w") as archive:
            archive.writestr("a.json", "{}" * 99)
        base.write_bytes(base.read_bytes().replace(b"{}{}", b"{}[}", 1))
    elif kind == "no advisory":
        with zipfile.ZipFile(base, "w") as archive:
            archive.writestr("a.json", "{}")
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
