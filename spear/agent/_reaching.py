"""The addresses of a host: in which order they are tried, and what became of each attempt.

A connection and its login are the business of ``_serve``; here is what is remembered from one attempt to
the next. Invariant: every address is tried in each round, and the one that worked last is tried first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

from spear._errors import (
    AuthenticationFailed,
    ChannelBroken,
    ConfigurationError,
    RemoteProtocolError,
    SpearError,
)
from spear.transports import ConnectOptions, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from spear.transports import TlsClient, TransportRegistry
    from spear.wire import OfferedAddress

    Failures: TypeAlias = "Sequence[tuple[OfferedAddress, SpearError]]"

logger: Final = logging.getLogger("spear.agent")


@final
class HostAddresses:
    """Where a host may be reached, for one :func:`serve`.

    The addresses are tried one after the other, until a login succeeds; each gets its share of the time
    that is left. After a break, the address that worked is tried first.

    Args:
        offered: the addresses, best first.
        tls: our certificate, and whom we trust, for addresses that speak TLS. What was offered with an
            address counts where this says nothing.
        transports: finds the transports of the addresses; by default those of Spear and of installed
            distributions.
        report: called with a line for each address that cannot be reached; by default it is logged.
    """

    def __init__(
        self,
        offered: Iterable[OfferedAddress],
        *,
        tls: TlsClient | None = None,
        transports: TransportRegistry | None = None,
        report: Callable[[str], object] = logger.warning,
    ) -> None:
        self._offered = list(offered)
        self._tls = tls
        self._connect = connect if transports is None else transports.connect
        self._report = report
        self._reported: dict[str, tuple[type[SpearError], str]] = {}

    def in_order(self) -> list[OfferedAddress]:
        """The addresses, in the order in which they are to be tried."""
        return list(self._offered)

    def connect(
        self, offered: OfferedAddress, seconds: float
    ) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """A connection to one of them, for as long as the block runs."""
        return self._connect(
            offered.address, ConnectOptions(seconds=seconds, tls=self._trust(offered))
        )

    def _trust(self, offered: OfferedAddress) -> TlsClient | None:
        tls = self._tls
        if not (offered.server_name or offered.ca):
            return tls
        from spear.transports import TlsClient

        tls = tls or TlsClient()
        if offered.server_name and tls.server_name is None:
            tls = attrs.evolve(tls, server_name=offered.server_name)
        if offered.ca and tls.ca is None:
            tls = attrs.evolve(tls, ca_data=offered.ca)
        return tls

    def worked(self, offered: OfferedAddress) -> None:
        """Try this one first from now on."""
        self._reported.clear()
        self._offered.remove(offered)
        self._offered.insert(0, offered)

    def failed(self, offered: OfferedAddress, failure: SpearError) -> None:
        """Report why an address could not be reached, unless that was reported already."""
        reason = (type(failure), failure.code)
        if self._reported.get(offered.address) != reason:
            self._reported[offered.address] = reason
            self._report(f"cannot reach the host at {offered.address}: {failure} [{failure.code}]")


def unreachable(failures: Failures) -> SpearError:
    """Return one error for a round of failures; the failure itself if there was one address.

    Its class is that of the failure that says most: a refusal, then a broken connection, which may be
    whole a moment later, then what will never be a host.
    """
    if len(failures) == 1:
        return failures[0][1]
    kinds: tuple[type[SpearError], ...] = (
        AuthenticationFailed,
        ChannelBroken,
        RemoteProtocolError,
        ConfigurationError,
    )
    kind = next(
        (each for each in kinds if any(isinstance(error, each) for _, error in failures)),
        ChannelBroken,
    )
    said = "; ".join(f"{offered.address}: {error}" for offered, error in failures)
    error = kind(f"none of the host's {len(failures)} addresses can be reached: {said}")
    error.__cause__ = ExceptionGroup("each address", [error for _, error in failures])
    return error
