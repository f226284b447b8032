"""Imports that wait until something is used: in our own packages, and in those of others."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

POSTPONED = (
    "scipy.signal",  # of torchmetrics, for audio: 0.4 s
    "torchmetrics.utilities.plot",  # of torchmetrics, imports matplotlib where it is: 0.6 s
    "torch._dynamo",  # of torchvision and Lightning, to know compiled models: 1 s
    "torch._dynamo.utils",
    "transformers",  # of torchmetrics and open_clip, for texts: 0.9 s
    "transformers.modeling_outputs",
    "wandb",  # of timm, for training: 0.3 s
)
"""What the libraries that we need import, though nothing that we call of them uses it."""


def lazy_names(package: str, names: Collection[str], *modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose modules are imported when one of its names is used.

    Args:
        package: Its ``__name__``.
        names: Its ``__all__``.
        modules: Its modules that have these names, the quickest to import first.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        for module in modules if name in names else ():
            one = import_module(f"{package}.{module}")
            if hasattr(one, name):
                return getattr(one, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__


class Postponed(ModuleType):
    """Stands for a module while others import it, and for what they import from it.

    The real module is imported once somebody calls or looks into what this stands for.

    Args:
        module: The module's name.
        name: Of what is imported from it; empty for the module itself.
    """

    def __init__(self, module: str, name: str = "") -> None:
        super().__init__(module)
        self.__spec__, self._name = ModuleSpec(module, None), name
        self.__path__ = []  # a package, so that `find_spec` is asked for its other modules

    def _imported(self) -> Any:
        forget_postponed()
        module = import_module(self.__name__)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":  # of which imports and typing ask
            raise AttributeError(name)
        if self._name or name == "__version__":
            return getattr(self._imported(), name)
        # `disable` of torch.compile marks functions: none of those that we call is compiled
        return _unchanged if name == "disable" else Postponed(self.__name__, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._imported()(*args, **options)

    def __or__(self, other: Any) -> Any:
        return self._imported() | other

    def __mro_entries__(self, bases: Any) -> tuple[Any]:
        return (self._imported(),)

    def __instancecheck__(self, one: Any) -> bool:
        # Of a class whose module nobody has imported, there is no object.
        there = not isinstance(sys.modules.get(self.__name__), Postponed | None)
        return there and isinstance(one, self._imported())

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module of a postponed package by importing the real package."""
        parent = sys.modules.get(name.rpartition(".")[0])
        return find_spec(name) if isinstance(parent, Postponed) and parent._imported() else None


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    return function or _unchanged


def forget_postponed() -> None:
    """From now on, an import of what is postponed is the usual one."""
    for name in POSTPONED:
        if isinstance(sys.modules.get(name), Postponed):
            del sys.modules[name]


@contextmanager
def postponed_imports() -> Iterator[None]:
    """Import libraries without what they import and we do not use: `POSTPONED`.

    Modules that are imported already stay, and those that are not installed are not found.
    """
    for name in POSTPONED:
        if name not in sys.modules and find_spec(name.partition(".")[0]):
            sys.modules[name] = Postponed(name)
    sys.meta_path.insert(0, Postponed)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(Postponed)  # type: ignore[arg-type]
        forget_postponed()
