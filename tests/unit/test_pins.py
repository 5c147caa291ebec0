"""One set of versions everywhere: constraints.txt, the requirements and the conda environments agree."""

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from snaketune.core.code_identity import CodeDigests

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
CONDA = sorted((ROOT / "envs").glob("*.yaml"))
LINUX = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
DISTRIBUTIONS = {"yaml": "pyyaml"}


def requirements(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@cache
def pins():
    """Version by distribution, as they hold for Python 3.11 on Linux: what the conda environments run."""
    found = requirements(ROOT / "constraints.txt")
    return {
        canonicalize_name(pin.name): str(pin.specifier) for pin in found if not pin.marker or pin.marker.evaluate(LINUX)
    }


def pip_section(path):
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    return [Requirement(line) for part in dependencies if isinstance(part, dict) for line in part["pip"]]


def test_constraints_name_exact_public_versions_only():
    text = (ROOT / "constraints.txt").read_text()
    for unwanted in ("+cpu", "+cu", "file:", "--hash", "--index-url", "--extra-index-url", "--find-links", "://"):
        assert unwanted not in text
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in requirements(ROOT / "constraints.txt"))


# A model inside a package: what runs it is not installed, so that its requirements are no part of the pins.
CARRIERS = {"extras/smollm2.txt"}
EXTRAS = [f"extras/{path.name}" for path in sorted((ROOT / "envs" / "extras").glob("*.txt"))]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", *EXTRAS])
def test_every_requirement_has_a_pin_within_its_range(name):
    for requirement in requirements(ROOT / "envs" / name):
        if name in CARRIERS and canonicalize_name(requirement.name) not in pins():
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
            continue
        version = pins()[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_torch_is_one_exact_version_in_the_requirements():
    [torch] = [str(line) for line in requirements(ROOT / "envs" / "requirements.txt") if line.name == "torch"]
    assert torch == f"torch{pins()['torch']}"


@pytest.mark.parametrize("path", CONDA, ids=lambda path: path.stem)
def test_conda_pins_equal_the_constraints(path):
    assert pip_section(path)
    for requirement in pip_section(path):
        assert str(requirement.specifier) == pins()[canonicalize_name(requirement.name)], requirement


def extras():
    """Distributions that are asked for only by those who want what they are for."""
    lines = [line for name in EXTRAS for line in requirements(ROOT / "envs" / name)]
    return {canonicalize_name(requirement.name) for requirement in lines}


def environments_of_rules():
    """(script, environment file) for each rule that names a conda environment."""
    for path in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))):
        for block in re.split(r"^(?=(?:rule|checkpoint) )", path.read_text(), flags=re.MULTILINE)[1:]:
            found = re.search(r'conda:\s*"([^"]+)"', block)
            if found:
                script = re.search(r"scripts/(\w+)\.py", block)
                yield script[1] if script else block.split()[1].rstrip(":"), (path.parent / found[1]).resolve()


def imported_distributions(path):
    """Third-party distributions that a Python file imports at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return {
        canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names - sys.stdlib_module_names - {"snaketune"}
    }


@pytest.mark.parametrize(("rule", "environment"), [pytest.param(*pair, id=pair[0]) for pair in environments_of_rules()])
def test_environment_of_a_rule_holds_what_its_script_imports(rule, environment):
    script = SCRIPTS / f"{rule}.py"
    files = [script, *(path for path in CodeDigests(SCRIPTS).closure(script) if path.suffix == ".py")]
    needed = set().union(*(imported_distributions(path) for path in files))
    held = {canonicalize_name(requirement.name) for requirement in pip_section(environment)} | extras()
    assert needed <= held, f"{environment.name} lacks {sorted(needed - held)}"


# Licences under which a package may be used and passed on with code of any licence; of several, one is enough.
FREE = re.compile(
    r"MIT|BSD|Apache|ISC|Python|PSF|Zlib|Public Domain|MPL|Mozilla|CC0|Unlicense|NVIDIA Proprietary", re.I
)


def licence_of(package):
    """What a package says of its licence, as far as possible in its metadata; empty when it has only a text."""
    facts = metadata.metadata(package)
    classifiers = [line for line in facts.get_all("Classifier") or [] if line.startswith("License ::")]
    return facts.get("License-Expression") or " ".join(classifiers) or facts.get("License") or ""


def test_installed_pins_have_licences_that_bind_nobody():
    installed = {canonicalize_name(found.name) for found in metadata.distributions()}
    here = sorted(set(pins()) & installed)
    assert len(here) > 50
    stated = {package: licence_of(package) for package in here}
    silent = [
        name for name, words in stated.items() if not words and not metadata.metadata(name).get_all("License-File")
    ]
    assert {name for name, words in stated.items() if words and not FREE.search(words)} == set()
    assert set(silent) <= {"conda-inject"}  # MIT by its repository
