"""Results of calls in a host's responses, with the instances and the durations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import ConfigurationError, RemoteProtocolError
from spear._ids import InstanceId
from spear.channels import ExecutionResponse
from spear.wire import CBOR, decode_result

from ._client import CBOR_KIND

if TYPE_CHECKING:
    from ._connection import ResponseHead


def instance_of_untrusted(head: ResponseHead) -> InstanceId | None:
    """Return the instance that a response names; None if it names none, or wrongly."""
    text = head.headers.get(b"spear-instance", b"").decode("latin-1")
    return read_instance(text)


def read_instance(text: object) -> InstanceId | None:
    """Return the instance that a text names, as in ``process:shop-1#1``; None if it names none."""
    if not isinstance(text, str):
        return None
    runtime, _, rest = text.partition(":")
    name, _, incarnation = rest.rpartition("#")
    try:
        return InstanceId(runtime, name, int(incarnation))
    except (ValueError, ConfigurationError):
        return None


def response_of_untrusted(head: ResponseHead, body: bytes, where: str) -> ExecutionResponse:
    """Return the result in a response. Raises RemoteProtocolError if there is none."""
    if head.status != 200 or head.kind != CBOR_KIND:
        raise no_result(head, where)
    try:
        millis = float(head.headers.get(b"spear-duration-ms", b"0"))
    except ValueError:
        millis = 0.0
    return ExecutionResponse(body, CBOR, round(millis * 1000) if 0 <= millis < 1e12 else 0)


def no_result(head: ResponseHead, where: str) -> RemoteProtocolError:
    """Return the error for a response that is neither a result nor an error of a host."""
    what = f"{where} has sent no result, but {head.kind.decode('latin-1')[:100]!r}"
    advice = "check the address, and that the host is as new as this client"
    return RemoteProtocolError(f"{what}: {advice}", delivered="maybe")


def details_untrusted(content: bytes) -> tuple[InstanceId | None, int]:
    """Return the instance in the details of a call, and the microseconds that its function took."""
    try:
        details = decode_result(content, is_cbor=True)
    except ValueError:
        details = None
    if not isinstance(details, dict):
        return None, 0
    seconds = details.get("execution_seconds")
    is_known = isinstance(seconds, float) and 0 <= seconds < 1e9
    return read_instance(details.get("instance")), round(seconds * 1e6) if is_known else 0  # type: ignore[operator,arg-type]  # a float
