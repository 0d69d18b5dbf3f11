"""What is known of a call besides its result, and of a function besides its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

import attrs

if TYPE_CHECKING:
    from spear._ids import InstanceId

    from ._arguments import Result


class Placed(Protocol):
    """Is told where a call runs."""

    @property
    def is_promised(self) -> bool:
        """Whether it was submitted, and so gets its turn though its deployment may be draining."""

    def place(self, instance: InstanceId) -> None:
        """It runs there; once more, if it has run elsewhere and was lost there."""


@final
class Place:
    """Remembers where a call ran."""

    __slots__ = ("instance",)

    is_promised: Final = False

    def __init__(self) -> None:
        self.instance: InstanceId | None = None

    def place(self, instance: InstanceId) -> None:
        """It runs there."""
        self.instance = instance


@final
@attrs.frozen(kw_only=True)
class Answer:
    """A result, and how it came to be.

    Attributes:
        result: what the function returned.
        instance: where it ran; None if the outcome of its key was known already.
        execution_seconds: how long the function took, as its instance measured it.
    """

    result: Result
    instance: InstanceId | None
    execution_seconds: float


@final
@attrs.frozen(kw_only=True)
class FunctionDescription:
    """A function, for somebody who wants to call it.

    Attributes:
        signature: how it is called, as it was written: ``price(item: str) -> float``.
        summary: the first line of its documentation; may be empty.
    """

    signature: str
    summary: str


def read_descriptions(value: Result) -> dict[str, FunctionDescription]:
    """The functions by name, out of what an agent tells; what is none is left out."""
    return {
        str(each.get("name")): FunctionDescription(
            signature=str(each.get("signature")), summary=str(each.get("summary"))
        )
        for each in (value if isinstance(value, list) else ())
        if isinstance(each, dict)
    }
