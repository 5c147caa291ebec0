import os
import time

import pytest

from snaketune.core.code_identity import CodeDigests, code_digest

MODULES = {
    "snaketune/__init__.py": "",
    "snaketune/a.py": 'from snaketune.b import f\n\ndef g(x):\n    """Doc."""\n    return f(x)\n',
    "snaketune/b.py": "def f(x):\n    return x + 1  # why\n",
    "snaketune/other.py": "VALUE = 1\n",
    "snaketune/page/__init__.py": "",
    "snaketune/page/render.py": "import json\n",
    "snaketune/page/page.html.j2": "<p>one</p>",
    "stage.py": "def main():\n    from snaketune.a import g\n    import snaketune.page.render\n    print(g(1))\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digest_after(tree, name, old, new):
    path = tree / name
    before = code_digest(tree / "stage.py", tree)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return before, code_digest(tree / "stage.py", tree)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("snaketune/b.py", "# why", "# because"),
        ("snaketune/a.py", '"""Doc."""', '"""Another text."""'),
        ("snaketune/a.py", "return f(x)", "return f( x )"),
        ("snaketune/other.py", "1", "2"),
    ],
)
def test_what_does_not_change_the_meaning_of_the_stage_does_not_count(tree, name, old, new):
    before, after = digest_after(tree, name, old, new)
    assert before == after


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("snaketune/b.py", "x + 1", "x + 2"),
        ("stage.py", "g(1)", "g(2)"),
        ("snaketune/__init__.py", "", "X = 1"),
        ("snaketune/page/page.html.j2", "one", "two"),
    ],
)
def test_a_changed_expression_anywhere_in_the_closure_counts(tree, name, old, new):
    before, after = digest_after(tree, name, old, new)
    assert before != after


def test_moving_the_project_changes_nothing(tree, tmp_path_factory):
    before = code_digest(tree / "stage.py", tree)
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    tree.rename(moved)
    assert code_digest(moved / "stage.py", moved) == before


def test_the_closure_follows_imports_inside_functions(tree):
    names = {path.name for path in CodeDigests(tree).closure(tree / "stage.py")}
    assert {"a.py", "b.py", "render.py", "page.html.j2"} <= names
    assert "other.py" not in names


def cached_digest(tree):
    """The digest by what an earlier command has remembered, in a file that this one leaves for the next."""
    digests = CodeDigests(tree, tree / "memory.json")
    found = digests.of(tree / "stage.py")
    digests.save()
    return found


def test_a_file_that_did_not_change_on_disk_is_not_parsed_again(tree, monkeypatch):
    time.sleep(0.05)
    first = cached_digest(tree)
    assert first == code_digest(tree / "stage.py", tree)
    monkeypatch.setattr("snaketune.core.code_identity._read", pytest.fail)
    assert cached_digest(tree) == first


def test_what_is_remembered_makes_no_difference(tree):
    time.sleep(0.05)
    cached_digest(tree)
    for name, old, new in (("snaketune/b.py", "x + 1", "x + 3"), ("stage.py", "snaketune.a", "snaketune.c")):
        stat = (tree / name).stat()
        (tree / name).write_text((tree / name).read_text().replace(old, new))
        os.utime(tree / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert cached_digest(tree) == code_digest(tree / "stage.py", tree)
    (tree / "snaketune/c.py").write_text("import snaketune.other\ng = print\n")
    assert cached_digest(tree) == code_digest(tree / "stage.py", tree)
    (tree / "snaketune/page/new.css").write_text("a")
    assert cached_digest(tree) == code_digest(tree / "stage.py", tree)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"x": {"value": [1, 2, 3, 4, ["a", [1]]], "digest": "0"}}', b"[]"])
def test_a_damaged_memory_is_found_out_again(tree, damage, capsys):
    (tree / "memory.json").write_bytes(damage)
    assert cached_digest(tree) == code_digest(tree / "stage.py", tree)
    assert "memory.json is damaged" in capsys.readouterr().err
