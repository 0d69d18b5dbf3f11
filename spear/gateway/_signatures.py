"""AWS Signature Version 4 of requests, with the token as the secret key.

The token never crosses the wire, and a signature is valid for one request only, for a limited time. The
signature covers the hash of the body, so the body has to be read before its sender is known.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Final, final
from urllib.parse import quote

import attrs

from ._errors import Problem

if TYPE_CHECKING:
    from ._request import Request

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW_SECONDS: Final = 300.0
"""Largest difference between the client's clock and ours, as in AWS."""

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=[^/,\s]+/(?P<scope>(?P<date>\d{8})/(?P<region>[^/,\s]+)/"
    r"(?P<service>[^/,\s]+)/aws4_request),\s*SignedHeaders=(?P<headers>[a-z0-9;_-]+),\s*"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_TIME: Final = "%Y%m%dT%H%M%SZ"


def _wrong(message: str, aws_kind: str = "InvalidSignatureException") -> Problem:
    return Problem(403, "Forbidden", message, aws_kind=aws_kind)


def is_signed(request: Request) -> bool:
    """Return whether a request has an AWS signature; :func:`read_signature` checks its form."""
    return request.headers.get(b"authorization", b"").startswith(ALGORITHM.encode())


@final
@attrs.frozen
class AwsSignature:
    """A well-formed, recent signature, which :meth:`check` verifies.

    Attributes:
        head: The canonical request, up to the hash of the body.
        stamp: The time of signing, in UTC, as ``20261130T015741Z``.
        scope: The scope, ``date/region/service/aws4_request``. Any region and service is accepted.
        value: The signature, 64 hexadecimal digits.
    """

    head: str
    stamp: str
    scope: str
    value: str

    def check(self, body: bytes, secret: str) -> None:
        """Raise Problem (403) unless the request with this body was signed with this secret."""
        canonical = f"{self.head}\n{hashlib.sha256(body).hexdigest()}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join((ALGORITHM, self.stamp, self.scope, digest))
        key = f"AWS4{secret}".encode()
        for part in self.scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        expected = hmac.digest(key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected, self.value):
            raise _wrong(
                "the request is not signed with this gateway's token as the secret access key"
            )


def read_signature(request: Request) -> AwsSignature:
    """Return the signature of a request, unverified: :meth:`AwsSignature.check` needs the body.

    The signature must cover ``Host``, ``X-Amz-Date``, and all ``X-Amz-*`` and ``Content-Type*`` headers
    of the request.

    Raises:
        Problem: the signature is malformed, leaves one of these headers out, or is more than
            ``MAX_SKEW_SECONDS`` away from our clock (403).
    """
    found = _AUTHORIZATION.fullmatch(_header(request, "authorization"))
    if found is None:
        raise _wrong(
            "the signature is malformed: sign with AWS Signature Version 4",
            "IncompleteSignatureException",
        )
    signed = found["headers"].split(";")
    # A proxy could change an unsigned header, and the call with it.
    needed = {"host", "x-amz-date"}
    needed |= {
        name.decode() for name in request.headers if name.startswith((b"x-amz-", b"content-type"))
    }
    missing = sorted(needed - set(signed))
    if missing:
        raise _wrong(f"these headers are not signed: {', '.join(missing)}")
    stamp = _header(request, "x-amz-date")
    _check_time(stamp, found["date"])
    head = "\n".join(
        (
            request.method,
            quote(request.path, safe="/~"),
            _sorted_query(request.query),
            *(f"{name}:{' '.join(_header(request, name).split())}" for name in signed),
            "",
            found["headers"],
        )
    )
    return AwsSignature(head, stamp, found["scope"], found["signature"])


def _header(request: Request, name: str) -> str:
    return request.headers.get(name.encode(), b"").decode("latin-1")


def _check_time(stamp: str, date: str) -> None:
    try:
        moment = calendar.timegm(time.strptime(stamp, _TIME))
    except ValueError:
        raise _wrong(
            "X-Amz-Date must be a time such as 20261130T120000Z", "IncompleteSignatureException"
        ) from None
    if not stamp.startswith(date) or abs(time.time() - moment) > MAX_SKEW_SECONDS:
        raise _wrong(
            f"the request was signed at {stamp}, which is not the time of the gateway: check the clocks"
        )


def _sorted_query(query: str) -> str:
    pairs = [each.partition("=") for each in query.split("&") if each]
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))
