"""What a stage's code means, as a digest: comments, docstrings and formatting do not count, expressions do.

The digest covers the script and every module of the library that it imports, directly or not, also inside
functions, and the template files beside those modules.
"""

import ast
import functools
import hashlib
from pathlib import Path

from snaketune.common.canonical import digest_of

PACKAGE = "snaketune"
RESOURCE_SUFFIXES = (".j2", ".css", ".js", ".jinja")


def code_digest(script: str | Path, root: str | Path) -> str:
    """Return the digest of ``script`` and of its closure within the package under ``root``.

    Args:
        script: the file that a rule runs.
        root: the folder that holds the package, which is also the script's folder.
    """
    root = Path(root)
    parts = {"script": source_digest(Path(script).read_bytes())}
    for path in closure(Path(script), root):
        content = path.read_bytes()
        digest = (
            source_digest(content) if path.suffix == ".py" else hashlib.blake2b(content, digest_size=16).hexdigest()
        )
        parts[path.relative_to(root).as_posix()] = digest
    return digest_of(parts, size=8)


def closure(script: Path, root: Path) -> list[Path]:
    """Return the library files that ``script`` depends on, sorted."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for path in _imported_files(waiting.pop().read_bytes(), root):
            if path not in found:
                found.add(path)
                waiting.append(path)
    resources = {path for module in found for path in module.parent.iterdir() if path.suffix in RESOURCE_SUFFIXES}
    return sorted(found | resources)


def source_digest(source: bytes) -> str:
    """Return the digest of the meaning of a Python source text."""
    return _source_digest(source)


@functools.cache
def _source_digest(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.blake2b(ast.dump(tree, annotate_fields=False).encode(), digest_size=16).hexdigest()


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]


@functools.cache
def _imported_files(source: bytes, root: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(path for name in sorted(names) if name.split(".")[0] == PACKAGE for path in _files_of(name, root))


def _files_of(module: str, root: Path) -> list[Path]:
    """Return the file of ``module`` and the ``__init__.py`` of each package above it, those that exist."""
    parts = module.split(".")
    packages = [root.joinpath(*parts[:length], "__init__.py") for length in range(1, len(parts) + 1)]
    return [path for path in (*packages, root.joinpath(*parts).with_suffix(".py")) if path.is_file()]
