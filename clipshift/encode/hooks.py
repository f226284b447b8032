"""Hooks and other changes of a model that last as long as a ``with`` block."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.utils.hooks import RemovableHandle


@contextmanager
def within(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of the block."""
    with ExitStack() as stack:
        for handle in hooks:
            stack.enter_context(handle)
        yield


@contextmanager
def replaced_forward(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute by other functions in the block; none is replaced already."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
