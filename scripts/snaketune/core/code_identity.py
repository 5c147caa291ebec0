"""The digest of a stage's code: comments, docstrings and formatting do not count, expressions do.

The digest covers the script and every module of the library that it imports, directly or not, also inside
functions, and the template files in the same folders.
"""

import ast
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from snaketune.core.canonical import digest_of
from snaketune.core.content_cache import Remembered

PACKAGE = "snaketune"
RESOURCE_SUFFIXES = (".j2", ".css", ".js", ".jinja")


class CodeDigests:
    """Digests of scripts, each with its closure within the package; a file is parsed when it changed on disk.

    Args:
        root: the folder that holds the package, which is also the scripts' folder.
        memory: JSON file that caches the digest and imports of each source file.
    """

    def __init__(self, root: str | Path, memory: str | Path | None = None):
        self._root = Path(root).resolve()
        self._remembered = Remembered(memory, _is_found) if memory else None
        self._files = dict(_walk(str(self._root / PACKAGE), PACKAGE))
        self._found: dict[str, list[Any]] = {}

    def of(self, script: str | Path) -> str:
        """Return the digest of ``script`` and of its closure."""
        script = Path(script).resolve()
        # Names are relative to the package, so the digest is the same in every clone.
        parts = {"script": self._meaning(str(script))[0]}
        for name in self._closure(script):
            parts[name] = self._meaning(self._files[name])[0]
        return digest_of(parts, size=8)

    def closure(self, script: str | Path) -> list[Path]:
        """Return the library files that ``script`` depends on, sorted."""
        return sorted(self._root / name for name in self._closure(Path(script).resolve()))

    def save(self) -> None:
        """Save the cache for the next invocation."""
        if self._remembered:
            self._remembered.save()

    def _closure(self, script: Path) -> set[str]:
        found: set[str] = set()
        waiting = [str(script)]
        while waiting:
            for module in self._meaning(waiting.pop())[1]:
                for name in _files_of(module):
                    if name in self._files and name not in found:
                        found.add(name)
                        waiting.append(self._files[name])
        # Templates are read by name at run time, which the imports do not show: all files beside an imported module
        # count.
        folders = {name.rpartition("/")[0] for name in found}
        return found | {
            name for name in self._files if name.endswith(RESOURCE_SUFFIXES) and name.rpartition("/")[0] in folders
        }

    def _meaning(self, path: str) -> list[Any]:
        """Return the digest of a file's meaning, and the modules of the package that it imports."""
        if path not in self._found:
            self._found[path] = self._remembered.value(path, _read) if self._remembered else _read(Path(path))
        return self._found[path]


def code_digest(script: str | Path, root: str | Path) -> str:
    """Return the digest of one script and of its closure within the package under ``root``."""
    return CodeDigests(root).of(script)


def _walk(folder: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name within the package's folder, and the path, of each file that code consists of."""
    for entry in os.scandir(folder):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _walk(entry.path, f"{name}/{entry.name}")
        elif entry.name.endswith((".py", *RESOURCE_SUFFIXES)):
            yield f"{name}/{entry.name}", entry.path


def _read(path: Path) -> list[Any]:
    """Return the digest of a file's meaning, and the modules of the package that it imports."""
    content = path.read_bytes()
    if path.suffix != ".py":
        return [hashlib.blake2b(content, digest_size=16).hexdigest(), []]
    tree = ast.parse(content)
    modules = _imported_modules(tree)
    return [_meaning_of(tree), modules]


def _is_found(value: object) -> bool:
    """Tell whether a cached value has the form of a result of :func:`_read`."""
    match value:
        case [str(), [*modules]]:
            return all(isinstance(module, str) for module in modules)
    return False


def _meaning_of(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    # Names of fields and positions are left out: a moved or reformatted line is the same code.
    return hashlib.blake2b(ast.dump(tree, annotate_fields=False).encode(), digest_size=16).hexdigest()


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]  # a body of nothing but its docstring still has to be a body


def _imported_modules(tree: ast.Module) -> list[str]:
    """Return the modules of the package that a module imports, or that may be names in one, sorted."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            # `from package import name` may import a module or something in it; a name that is no file is ignored
            # later.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return sorted(name for name in names if name.split(".")[0] == PACKAGE)


@cache
def _files_of(module: str) -> tuple[str, ...]:
    """Return where the file of ``module`` would be, and the ``__init__.py`` of each package above it."""
    parts = module.split(".")
    packages = ["/".join([*parts[:length], "__init__.py"]) for length in range(1, len(parts) + 1)]
    return (*packages, "/".join(parts) + ".py")
