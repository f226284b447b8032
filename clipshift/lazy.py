"""Imports that wait until something is used: in our own packages, and in those of others."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

POSTPONED = (
    "scipy.signal",  # of torchmetrics, for audio: 0.4 s
    "torch._dynamo",  # of torchvision and Lightning, to recognise compiled models: 1 s
    "torch._dynamo.utils",
    "transformers",  # of torchmetrics and open_clip, for texts: 0.9 s
    "transformers.modeling_outputs",
    "wandb",  # of timm's training: 0.3 s
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
    """Stands for a module while others import it; what they then use of it is the real one's."""

    __path__: tuple[str, ...] = ()  # a package, so that `Others` is asked for its other modules

    def imported(self) -> ModuleType:
        """The real module, imported when it is first used."""
        for name in POSTPONED:
            if isinstance(sys.modules.get(name), Postponed):
                del sys.modules[name]
        return import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name == "disable":  # of torch.compile, as a decorator: nothing of ours is compiled
            return _unchanged
        if name == "__version__":
            return getattr(self.imported(), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return PostponedName(self, name)


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    return function or _unchanged


class PostponedName:
    """Stands for a function, class or module that others import from a `Postponed` one."""

    def __init__(self, module: Postponed, name: str) -> None:
        self._module, self._name = module, name

    def _imported(self) -> Any:
        return getattr(self._module.imported(), self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._imported()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what typing asks of everything that stands in an annotation
            raise AttributeError(name)
        return getattr(self._imported(), name)

    def __or__(self, other: Any) -> Any:
        return self._imported() | other

    def __mro_entries__(self, bases: Any) -> tuple[Any]:
        return (self._imported(),)

    def __instancecheck__(self, one: Any) -> bool:
        # Of a class whose module nobody has imported, there is no object.
        module = sys.modules.get(self._module.__name__)
        return not isinstance(module, Postponed | None) and isinstance(one, self._imported())


class Others(MetaPathFinder):
    """Finds modules of packages that are `Postponed`, by importing the real package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        return find_spec(name) if isinstance(parent, Postponed) and parent.imported() else None


@contextmanager
def postponed_imports() -> Iterator[None]:
    """Import libraries without what they import and we do not use: `POSTPONED`.

    Modules that are imported already stay, and those that are not installed are not found. Whatever
    uses one of the others imports it, and after this block any import is the usual one.
    """
    for name in POSTPONED:
        if name not in sys.modules and find_spec(name.partition(".")[0]):
            sys.modules[name] = Postponed(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
    others = Others()
    sys.meta_path.insert(0, others)
    try:
        yield
    finally:
        sys.meta_path.remove(others)
        for name in POSTPONED:
            if isinstance(sys.modules.get(name), Postponed):
                del sys.modules[name]
