"""The types of typed clients have the methods of the real functions, with their parameters."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, get_type_hints

import pytest

import spear.asyncio
import spear.blocking
import spear.spearlet

if TYPE_CHECKING:
    from types import ModuleType

OF_GATEWAYS = {"forward", "forward_stream"}
"""Methods for the parts of Spear that pass encoded calls on."""

doors = pytest.mark.parametrize("door", [spear.spearlet, spear.asyncio, spear.blocking])


def function_of(door: ModuleType) -> type:
    """Return the real class of a door's functions."""
    found: type = spear.Function if door is spear.spearlet else door.Function
    return found


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if name[0] != "_"}


@doors
def test_typed_functions_have_all_methods_and_streams_those_for_streams(door: ModuleType) -> None:
    both = public(door.TypedFunction) & public(door.TypedStream)
    assert both == {"options", "retry", "signature", "timeout"}
    every = public(door.TypedFunction) | public(door.TypedStream)
    assert every == public(function_of(door)) - OF_GATEWAYS
    assert public(door.TypedStream) - both == {"stream"}
    attributes = {"name", "deployment", "is_stream"}
    assert attributes <= get_type_hints(door.TypedFunction).keys()


@doors
def test_a_method_is_async_if_that_of_a_function_is(door: ModuleType) -> None:
    for name in public(door.TypedFunction) - {"retry", "timeout"} | {"__call__"}:
        typed, real = getattr(door.TypedFunction, name), getattr(function_of(door), name)
        assert inspect.iscoroutinefunction(typed) is inspect.iscoroutinefunction(real), name


@doors
@pytest.mark.parametrize("name", ["TypedFunction", "TypedStream"])
def test_the_options_are_those_of_a_function(door: ModuleType, name: str) -> None:
    real = inspect.signature(spear.Function.options).parameters.keys() - {"self", "returns"}
    assert real == spear.spearlet.OptionArguments.__annotations__.keys()
    typed = inspect.signature(getattr(door, name).options).parameters
    assert list(typed) == ["self", "returns", "options"]


@doors
@pytest.mark.parametrize("method", ["map", "starmap", "for_each"])
def test_maps_have_the_parameters_of_a_function(door: ModuleType, method: str) -> None:
    real = inspect.signature(getattr(spear.Function, method)).parameters
    typed = inspect.signature(getattr(door.TypedFunction, method)).parameters
    assert [*typed] == [name for name in real if name != "others"]
    for name in ("items", "on_error", "options"):
        assert typed[name].default == real[name].default


@doors
def test_the_decorators_return_the_declaration(door: ModuleType) -> None:
    def price(self: object, item: str) -> float:
        return 3.5

    assert door.typed_function(price) is price
    assert door.typed_stream(price) is price
