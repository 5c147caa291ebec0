"""Recognition of layers by their code: a class whose ``forward`` has the same bytecode as Llama's computes the same."""

from types import CodeType
from typing import Any

import torch


def computes_as(module: torch.nn.Module, known: type[torch.nn.Module]) -> bool:
    """Tell whether the module's forward is the code of a known class under another name."""
    return same_code(type(module).forward, known.forward)


def same_code(one: Any, other: Any) -> bool:
    """Tell whether two functions are the same code, whatever they are called."""
    codes = [getattr(function, "__code__", None) for function in (one, other)]
    return all(codes) and len({_instructions(code) for code in codes if code}) == 1


def _instructions(code: CodeType) -> tuple[Any, ...]:
    # Without the name, the file and the docstring (the first constant), which differ between equal classes of two
    # models.
    return code.co_code, code.co_names, code.co_varnames, code.co_consts[1:], code.co_freevars
