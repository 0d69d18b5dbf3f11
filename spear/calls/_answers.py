"""Results with details of their calls, and descriptions of functions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, final

import attrs

from spear._signatures import MAX_SIGNATURE, MAX_SUMMARY

from ._returns import R

if TYPE_CHECKING:
    from spear._ids import InstanceId

    from ._payloads import Result


logger: Final = logging.getLogger("spear.calls")


@final
@attrs.frozen(kw_only=True)
class Answer(Generic[R]):
    """A result, with details of its call.

    Attributes:
        result: the value that the function returned.
        instance: the instance that ran it; None if the outcome of its key was known already.
        execution_seconds: seconds that the function took, as its instance measured it.
    """

    result: R
    instance: InstanceId | None
    execution_seconds: float


@final
@attrs.frozen(kw_only=True)
class FunctionDescription:
    """A description of a function, for its callers.

    Attributes:
        signature: the signature as in the source: ``price(item: str) -> float``.
        summary: the first line of the docstring; may be empty.
    """

    signature: str
    summary: str


def read_descriptions(value: Result, deployment: str) -> dict[str, FunctionDescription]:
    """Return the descriptions of an agent's functions, by name.

    Args:
        value: the result of ``spear.describe``; an agent may return anything.
        deployment: the deployment's name, for the warning about descriptions that are left out.
    """
    found: dict[str, FunctionDescription] = {}
    left_out = 0
    for each in value if isinstance(value, list) else [value]:
        name, description = _read_description(each)
        if description is None:
            left_out += 1
        else:
            found[name] = description
    if left_out:
        logger.warning("%s: ignored %d invalid descriptions of functions", deployment, left_out)
    return found


def _read_description(value: Result) -> tuple[str, FunctionDescription | None]:
    if not isinstance(value, dict):
        return "", None
    name, signature, summary = value.get("name"), value.get("signature"), value.get("summary")
    if (
        not isinstance(name, str)
        or not isinstance(signature, str)
        or not isinstance(summary, str)
        or len(signature) > MAX_SIGNATURE
    ):
        return "", None
    return name, FunctionDescription(signature=signature, summary=summary[:MAX_SUMMARY])
