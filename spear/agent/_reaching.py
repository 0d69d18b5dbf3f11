"""The addresses of a host: the order of attempts to connect, and reports of failed attempts.

``_serve`` makes the connections and logs in; this module keeps the state between attempts. Invariant:
every round tries each address, beginning with the one of the last successful login.
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
    """A list of addresses of one host, for one :func:`serve`.

    The addresses are tried one after the other until a login succeeds. Each attempt gets an equal share
    of the remaining time. After a broken connection, the address that worked is tried first.

    Args:
        offered: the addresses, best first.
        tls: our certificate and trusted authorities for TLS addresses. The authority and server name
            offered with an address apply where these settings have none.
        transports: the registry of transports; by default Spear's and those of installed distributions.
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
        """Return the addresses in the order of attempts."""
        return list(self._offered)

    def connect(
        self, offered: OfferedAddress, seconds: float
    ) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """Keep a connection to one of the addresses open while the block runs."""
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
        """Record a successful login, so that this address is tried first from now on."""
        self._reported.clear()
        self._offered.remove(offered)
        self._offered.insert(0, offered)

    def failed(self, offered: OfferedAddress, failure: SpearError) -> None:
        """Report why an address could not be reached, unless the last report for it was the same."""
        reason = (type(failure), failure.code)
        if self._reported.get(offered.address) != reason:
            self._reported[offered.address] = reason
            self._report(f"cannot reach the host at {offered.address}: {failure} [{failure.code}]")


def unreachable(failures: Failures) -> SpearError:
    """Return one error for a round of failures; the failure itself if there was one address.

    The class of the error is the first that occurred in this order: a refusal, a broken connection (which
    may succeed a moment later), a peer that is not a host, an unusable address.
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
