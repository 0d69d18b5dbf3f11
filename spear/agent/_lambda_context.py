"""The second argument of a function that was written for AWS Lambda.

https://docs.aws.amazon.com/lambda/latest/dg/python-context.html defines its attributes.
"""

from __future__ import annotations

import os
import resource
from math import inf
from types import SimpleNamespace
from typing import Final, final

from ._context import CallContext

MEBIBYTE: Final = 1 << 20

MOST_MILLIS: Final = 2**31 - 1
"""The remaining time of a call without a deadline, in ms: 24 days."""


@final
class LambdaContext:
    """The context of a call, as functions written for AWS Lambda expect it: ``handler(event, context)``.

    :func:`spear.context` has more information about the call.

    Attributes:
        function_name: the name under which the function was called.
        function_version: always "$LATEST".
        invoked_function_arn: a name of the function in the form of AWS.
        aws_request_id: the id of the request to the gateway, as the response has it; of a call that does
            not come from the gateway, the instance and the number of the call.
        log_group_name: the name of the deployment.
        log_stream_name: the name of the instance.
        identity: always None.
    """

    function_version: Final = "$LATEST"
    identity: Final = None

    def __init__(self, call: CallContext) -> None:
        self._call = call
        self.function_name = call.function
        self.invoked_function_arn = f"arn:aws:lambda:local:000000000000:function:{call.function}"
        own = f"{call.instance_id}/{call.call_id}"
        self.aws_request_id = str(call.metadata.get("x-request-id") or own)
        self.log_group_name = call.instance_id.name.rpartition("-")[0] or call.instance_id.name
        self.log_stream_name = str(call.instance_id)

    def __repr__(self) -> str:
        return f"<LambdaContext {self.function_name}, request {self.aws_request_id}>"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the deadline of the call; 0 if it has passed."""
        seconds = self._call.remaining_seconds()
        return MOST_MILLIS if seconds == inf else min(int(seconds * 1000), MOST_MILLIS)

    @property
    def memory_limit_in_mb(self) -> int:
        """MiB of address space that the instance may use; without a limit, the memory of the machine."""
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return limit // MEBIBYTE

    @property
    def client_context(self) -> SimpleNamespace | None:
        """The object in ``X-Amz-Client-Context``, with ``custom``, ``env`` and ``client``; or None."""
        given = self._call.metadata.get("client_context")
        if not isinstance(given, dict):
            return None
        return SimpleNamespace(**{name: given.get(name) for name in ("custom", "env", "client")})
