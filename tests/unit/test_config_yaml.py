import pytest

from snaketune.config.strict_yaml import load_yaml, parse_yaml
from snaketune.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("-3", -3),
        ("no", "no"),
        ("12:30", "12:30"),
        ("0x1F", "0x1F"),
        ("true", True),
        ("~", None),
        ("2026-01-02", "2026-01-02"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    assert parse_yaml(f"key: {text}", "c.yaml") == {"key": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", ["line 3", "'a'", "line 1"]),
        ("a: {x: 1, x: 2}", ["'x'"]),
        ("a: &x [*x]", ["line 1", "alias of itself"]),
        ("a: &x {z: 1}\nb: {<<: *x, <<: *x}", ["line 2", "'<<'", "already set"]),
        ("a: {<<: 1}", ["line 1", "merging"]),
        ("a: *x", ["line 1", "undefined alias"]),
        ("a: [1", ["not valid YAML"]),
        ("1: 2", ["not a string"]),
        ("a: !!python/object:os.system {}", ["line 1", "tags"]),
        ("a: \x00", ["not valid YAML"]),
        ("a: 010", ["line 1", "begins with a zero", "write 10, or '010' in quotes"]),
        ("x: 1\na: [1, -08]", ["line 2", "-08 begins with a zero"]),
        ("a: " + "9" * 5000, ["line 1", "5,000 digits"]),
        ("a: 1e999", ["line 1", "too large"]),
    ],
)
def test_what_is_ambiguous_or_dangerous_is_refused_with_its_place(text, words):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "c.yaml")
    assert str(error.value).startswith("c.yaml")
    assert all(word in str(error.value) for word in words)


def test_aliases_and_merge_keys_write_themselves_out():
    text = "a: &base {r: 8, on: [q]}\nb: {<<: *base, r: 16}\nc: *base\nd: {<<: [*base, {s: 1}]}"
    found = parse_yaml(text, "c.yaml")
    assert found["b"] == {"r": 16, "on": ["q"]} and found["c"] == found["a"]
    assert found["d"] == {"r": 8, "on": ["q"], "s": 1}
    found["c"]["on"].append("v")
    assert found["a"]["on"] == found["b"]["on"] == ["q"], "what an alias repeats are values of their own"


@pytest.mark.parametrize("of_mappings", [False, True])
def test_an_alias_bomb_is_refused_at_once(of_mappings):
    inner = "{{x: *a{0}, y: *a{0}, z: *a{0}}}" if of_mappings else "[*a{0}, *a{0}, *a{0}]"
    lines = ["a0: &a0 {k: x}"] + [f"a{n}: &a{n} {inner.format(n - 1)}" for n in range(1, 40)]
    with pytest.raises(ConfigError, match=r"^bomb.yaml, line \d+: with its aliases .* more than 100,000 values"):
        parse_yaml("\n".join(lines), "bomb.yaml")


def test_a_bomb_of_merge_keys_is_refused_at_once():
    lines = ["a0: &a0 {k: x}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines), "bomb.yaml")


def test_deep_nesting_ends_in_a_sentence():
    with pytest.raises(ConfigError):
        parse_yaml("a: " + "[" * 5000, "deep.yaml")


def test_files_that_cannot_be_a_configuration_are_refused(tmp_path):
    cases = {"missing.yaml": None, "list.yaml": b"- 1", "latin.yaml": b"a: caf\xe9", "large.yaml": b"#" * 1_000_001}
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            load_yaml(tmp_path / name)


def test_an_empty_file_is_an_empty_configuration(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}
