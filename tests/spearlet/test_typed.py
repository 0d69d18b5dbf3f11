"""The types of typed clients have the methods of the real functions, with their parameters."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from spear.spearlet import (
    Function,
    FunctionOptions,
    TypedFunction,
    TypedStream,
    typed_function,
    typed_stream,
)

OF_STREAMS = {"stream"}
OF_GATEWAYS = {"forward", "forward_stream"}
"""Methods for the parts of Spear that pass encoded calls on."""


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if name[0] != "_"}


def test_typed_functions_have_all_methods_and_streams_those_for_streams() -> None:
    both = public(TypedFunction) & public(TypedStream)
    assert both == {"options", "retry", "signature", "timeout"}
    assert public(TypedFunction) | public(TypedStream) == public(Function) - OF_GATEWAYS
    assert public(TypedStream) - both == OF_STREAMS
    attributes = {"name", "deployment", "is_stream"}
    assert attributes <= get_type_hints(TypedFunction).keys()


@pytest.mark.parametrize("cls", [TypedFunction, TypedStream])
def test_the_options_are_those_of_a_function(cls: type) -> None:
    real = inspect.signature(Function.options).parameters.keys() - {"self", "returns"}
    assert real == FunctionOptions.__annotations__.keys()
    typed = inspect.signature(cls.options).parameters  # type: ignore[attr-defined]  # both have it
    assert list(typed) == ["self", "returns", "options"]


@pytest.mark.parametrize("method", ["map", "starmap", "for_each"])
def test_maps_have_the_parameters_of_a_function(method: str) -> None:
    real = inspect.signature(getattr(Function, method)).parameters
    typed = inspect.signature(getattr(TypedFunction, method)).parameters
    assert [*typed] == [name for name in real if name != "others"]
    for name in ("items", "on_error", "options"):
        assert typed[name].default == real[name].default


def test_the_decorators_return_the_declaration() -> None:
    def price(self: object, item: str) -> float:
        return 3.5

    assert typed_function(price) is price  # type: ignore[comparison-overlap]  # to mypy another type
    assert typed_stream(price) is price  # type: ignore[comparison-overlap]  # likewise
