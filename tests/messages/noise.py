"""Spear with other messages: every exception of Spear has the same few words as its message.

Attributes are unchanged. Call :func:`install` before the first import of Spear. In a process that has
already imported parts of Spear, :func:`change_loaded` changes these.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

NOISE = "words that no code may read"

WITH_NAMES = {"AttributeError", "ImportError", "KeyError", "StopAsyncIteration", "StopIteration"}
"""Exceptions of Python whose argument is not a message."""


class OtherWords(ast.NodeTransformer):
    """A transformer that replaces the messages where exceptions of Python are raised."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        """Replace the message."""
        call = node.exc
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
            cls = getattr(builtins, call.func.id, None)
            if (
                isinstance(cls, type)
                and issubclass(cls, Exception)
                and cls.__name__ not in WITH_NAMES
            ):
                call.args[-1] = ast.copy_location(ast.Constant(NOISE), call.args[-1])
        return node


class NoisyLoader(importlib.machinery.SourceFileLoader):
    """A loader of Spear's modules that replaces their messages."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source with replaced messages."""
        path = self.get_filename(fullname)
        tree = OtherWords().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, and change the exceptions that it defines."""
        super().exec_module(module)
        change(module)


class NoisyFinder:
    """A finder of Spear's modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's spec with a NoisyLoader, or None for a module that is not Spear's."""
        if fullname.partition(".")[0] != "spear":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = NoisyLoader(fullname, spec.loader.path)
        return spec


def change(module: ModuleType) -> None:
    """Change the messages of the exceptions that a module defines."""
    for cls in list(vars(module).values()):
        if (
            isinstance(cls, type)
            and issubclass(cls, BaseException)
            and cls.__module__ == module.__name__
            and not any(base.__module__.startswith("spear.") for base in cls.__mro__[1:])
        ):
            _change(cls)


def _change(cls: type[BaseException]) -> None:
    initialize = cls.__init__

    def say_noise(self: BaseException, *args: object, **keywords: object) -> None:
        initialize(self, *args, **keywords)
        self.args = (NOISE,)
        if hasattr(self, "summary"):
            self.summary = NOISE

    cls.__init__ = say_noise  # type: ignore[method-assign]  # the purpose of this module


def install() -> None:
    """Change all modules of Spear that are imported from now on."""
    sys.meta_path.insert(0, NoisyFinder())


def change_loaded() -> None:
    """Change the exceptions of all modules of Spear, also of those already imported."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "spear":
            change(module)
    install()
