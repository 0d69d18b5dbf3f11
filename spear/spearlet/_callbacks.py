"""The service of a host to its instances: they may call other functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, final

import trio

from spear._errors import CallFailed, NotFound
from spear._stalls import STALLED

from ._replica_calls import ReplicaCalls

if TYPE_CHECKING:
    from spear.calls import Function
    from spear.channels import InboundCall
    from spear.wire import Payload


@final
class Callbacks:
    """A service that calls functions of a host's deployments for its instances.

    Args:
        find: returns a function by "name" or "deployment.name"; raises NotFound.
    """

    def __init__(self, find: Callable[[str], Function]) -> None:
        self._find = find

    def refuse(self, function: int, head: object) -> CallFailed | None:
        """Return NotFound for a function that no deployment has, before its arguments are read."""
        name = head.get("function") if isinstance(head, dict) else None
        if not isinstance(name, str):
            return NotFound("functions of a host have no numbers: call each by its name")
        try:
            self._find(name)
        except NotFound as error:
            return error
        return None

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Call a function for an instance; arguments, items and result pass through undecoded.

        If cancelled, the function is cancelled, too, unless the call has a key.
        """
        name = call.head["function"] if call.head else None
        assert isinstance(name, str)  # refuse() has checked this
        # The host sets the caller's name, because an instance could claim to be another one.
        caller = str(call.channel.instance_id)
        metadata = {**call.metadata, "caller": caller}
        stalled = metadata.pop(STALLED, None)
        function = self._find(name).options(metadata=metadata)
        calls = function._calls
        assert isinstance(calls, ReplicaCalls)  # as all of a spearlet
        with calls.pool.stalls.begin(caller, stalled) or nullcontext():
            return await self._forward(function, call)

    async def _forward(self, function: Function, call: InboundCall) -> tuple[Payload, bool]:
        remaining = call.deadline - trio.current_time()
        if not call.wants_stream:
            if call.key is not None:
                function = function.options(key=call.key)
            response = await function.forward(call.body, call.is_cbor, remaining)
            return response.body, response.is_cbor
        async with function.forward_stream(call.body, call.is_cbor, remaining) as stream:
            with suppress(trio.EndOfChannel):
                while True:
                    item, is_cbor = await stream.receive_item()
                    await call.send(item, is_cbor=is_cbor)
            response = await stream.response()
        return response.body, response.is_cbor
