"""The ids and secrets of instances, and the rules for names. A leaf: it imports only Spear's errors."""

from __future__ import annotations

import hmac
import re
from os import urandom
from typing import Final, final

import attrs

from ._errors import ConfigurationError

MAX_RUNTIME_NAME: Final = 32

MAX_INCARNATION: Final = 2**64 - 1
"""The largest integer that CBOR encodes without a tag."""

_RUNTIME = re.compile(rf"[a-z][a-z0-9_-]{{0,{MAX_RUNTIME_NAME - 1}}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

MAX_DEPLOYMENT_NAME: Final = 48
"""Characters of a deployment's name. An instance adds a number to it, and has at most 63."""

_DEPLOYMENT = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_DEPLOYMENT_NAME - 1}}}")


def problem_of_deployment_name(name: object) -> str:
    """Return why a value cannot name a deployment, as text to follow "it"; empty if it can."""
    if isinstance(name, str) and _DEPLOYMENT.fullmatch(name):
        return ""
    return (
        f"is not a valid name of a deployment: use 1 to {MAX_DEPLOYMENT_NAME} characters of "
        "A-Z a-z 0-9 _ -, beginning with a letter or digit"
    )


def check_runtime_name(name: object) -> None:
    """Raise ConfigurationError unless a value can name a runtime, in an id the part before the colon."""
    if not isinstance(name, str) or not _RUNTIME.fullmatch(name):
        raise ConfigurationError.about(
            "runtime",
            f"{_shown(name)} is not a valid name: use 1 to {MAX_RUNTIME_NAME} characters of "
            "a-z 0-9 _ -, beginning with a letter",
        )


def _shown(name: object) -> str:
    return repr(name[:80]) if isinstance(name, str) else f"of type {type(name).__name__}"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_runtime(_: object, __: attrs.Attribute[str], value: str) -> None:
    check_runtime_name(value)


def _check_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    # The name becomes part of socket paths, log lines and Kubernetes labels: no separators, no "..",
    # at most 63 bytes (the limit of a DNS label).
    if not _is_text(value) or not _NAME.fullmatch(value) or ".." in value:
        raise ConfigurationError.about(
            attribute.name,
            f"{_shown(value)} is not valid: use 1 to 63 characters of A-Z a-z 0-9 _ . -, "
            "beginning with a letter or digit, without two dots in a row",
        )


def _check_incarnation(_: object, __: attrs.Attribute[int], value: int) -> None:
    if type(value) is not int or not 1 <= value <= MAX_INCARNATION:
        kind = "out of this range" if type(value) is int else f"of type {type(value).__name__}"
        raise ConfigurationError.about(
            "incarnation", f"must be a whole number from 1 to {MAX_INCARNATION}, and is {kind}"
        )


@final
@attrs.frozen(order=True)
class InstanceId:
    """A name for one life of one function instance, from its start to its end.

    A restarted instance keeps its name and gets the next incarnation, so that messages that the old
    process still sends can be told apart and refused.

    Attributes:
        runtime: the name of the runtime that runs the instance, such as ``process``.
        name: the instance's name, unique in its host.
        incarnation: the number of this life, from 1.

    Raises:
        ConfigurationError: a part cannot be used; ``key`` names it.
    """

    runtime: str = attrs.field(validator=_check_runtime)
    name: str = attrs.field(validator=_check_name)
    incarnation: int = attrs.field(default=1, validator=_check_incarnation)

    def __str__(self) -> str:
        return f"{self.runtime}:{self.name}#{self.incarnation}"

    def next_incarnation(self) -> InstanceId:
        """Return the id of the instance after its next restart."""
        return attrs.evolve(self, incarnation=self.incarnation + 1)


@final
class Secret:
    """A secret of 256 random bits that proves an instance's identity; never shown by ``repr()``."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) != 32:
            raise ValueError(f"a secret must have 32 bytes, not {len(value)}")
        self._value = bytes(value)

    @classmethod
    def generate(cls) -> Secret:
        """Make a new secret with the operating system's generator."""
        return cls(urandom(32))

    def reveal(self) -> bytes:
        """Return the bytes, for the one place that hands them to the instance."""
        return self._value

    def prove(self, message: bytes) -> bytes:
        """Return the HMAC-SHA256 of ``message`` under this secret."""
        return hmac.digest(self._value, message, "sha256")

    def verify(self, message: bytes, proof: bytes) -> bool:
        """Return whether ``proof`` was made from ``message`` with this secret. Takes constant time."""
        return hmac.compare_digest(self.prove(message), proof)

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise TypeError(
            "a secret is not hashable: it must not become a key that is looked up by value"
        )
