"""The transports of a host: transports passed to it, Spear's own, and those of other distributions.

Each transport is imported on first use: a function's process needs only one of them, and every import
delays its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from spear._entry_points import load_entry_point, names_of_entry_points
from spear._errors import ConfigurationError, UnsupportedTransport
from spear._limits import expect_several

from ._addresses import Address, split_scheme
from ._transport import ConnectOptions, Transport, check_names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    import trio

GROUP: Final = "spear.transports"
"""The entry point group of transports."""

_DEFAULT_OPTIONS: Final = ConnectOptions()


def _unix() -> Transport:
    from ._unix import UnixTransport

    return UnixTransport()


def _tcp() -> Transport:
    from ._tcp import TcpTransport

    return TcpTransport()


def _memory() -> Transport:
    from ._memory import MemoryTransport

    return MemoryTransport()


_OWN: Final = {"memory": _memory, "tcp": _tcp, "unix": _unix}
_NAMES: Final = {"tls": "tcp"}
"""The name of the transport for each scheme that is not a transport's name."""

_LATER: Final = {"grpc": "grpc", "websocket": "websocket"}
"""Transports that this release does not contain, and the extra that will install each."""


@final
class TransportRegistry:
    """A collection of usable transports, by name and by the schemes of their addresses.

    Args:
        transports: transports that take precedence over Spear's own and over entry points.

    Raises:
        ConfigurationError: two of the transports have the same name or scheme, or one is not a transport
            or has an invalid name.
    """

    def __init__(self, transports: Iterable[Transport] = ()) -> None:
        self._by_name: dict[str, Transport] = {}
        self._by_scheme: dict[str, Transport] = {}
        for each in expect_several("transports", transports):
            if not isinstance(each, Transport):
                raise ConfigurationError(f"{each!r} is not a spear.transports.Transport")
            check_names(each)
            taken = [scheme for scheme in each.schemes if scheme in self._by_scheme]
            if taken or each.name in self._by_name:
                raise ConfigurationError(
                    f"two transports have the name or scheme {(taken or [each.name])[0]!r}"
                )
            self._add(each)

    def _add(self, transport: Transport) -> None:
        self._by_name[transport.name] = transport
        for scheme in transport.schemes:
            self._by_scheme.setdefault(scheme, transport)

    def find(self, name: str) -> Transport:
        """Return the transport of that name. The first call for a name loads the transport.

        Raises:
            UnsupportedTransport: no transport has this name.
            BrokenEntryPoint: the transport's entry point cannot be loaded.
            ConfigurationError: the loaded transport has an invalid name or invalid schemes.
        """
        found = self._by_name.get(name)
        if found is None:
            found = _load(name)
            if found is None:
                raise UnsupportedTransport(name, self._why_not(name))
            check_names(found)
            self._add(found)
        return found

    def parse(self, address: str) -> Address:
        """Parse the text form of an address.

        Raises:
            UnsupportedTransport: no transport has the scheme of the address.
            BrokenEntryPoint: the transport's entry point cannot be loaded.
            ConfigurationError: the text after the scheme is not a valid address.
        """
        return self._find_by_scheme(address).parse(address)

    def connect(
        self, address: Address | str, options: ConnectOptions = _DEFAULT_OPTIONS
    ) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """Keep a connection open while the block runs; see :meth:`Transport.connect`.

        Raises:
            UnsupportedTransport, BrokenEntryPoint, ConfigurationError: see :meth:`parse`. For errors on
                entering the block, see :meth:`Transport.connect`.
        """
        transport = self._find_by_scheme(str(address))
        parsed = transport.parse(address) if isinstance(address, str) else address
        return transport.connect(parsed, options)

    def _find_by_scheme(self, address: str) -> Transport:
        scheme, _ = split_scheme(address)
        found = self._by_scheme.get(scheme)
        return found or self.find(_NAMES.get(scheme, scheme))

    def _why_not(self, name: str) -> str:
        if name in _LATER:
            return f"not part of this release; a later one will provide spearlet[{_LATER[name]}]"
        others = (each for each in names_of_entry_points(GROUP) if _can_be_used(each))
        known = {*_OWN, *self._by_name, *others}
        return f"known transports are {', '.join(sorted(known))}"


def _load(name: str) -> Transport | None:
    if own := _OWN.get(name):
        return own()
    return load_entry_point(GROUP, name, Transport)  # type: ignore[type-abstract]  # is not called


def _can_be_used(name: str) -> bool:
    try:
        found = _load(name)
        if found is not None:
            check_names(found)
    except ConfigurationError:
        return False
    return found is not None


_registry: Final = TransportRegistry()
"""The registry for processes without further transports, such as agents."""


def parse_address(text: str) -> Address:
    """Parse the text form of an address; see :meth:`TransportRegistry.parse`."""
    return _registry.parse(text)


def connect(
    address: Address | str, options: ConnectOptions = _DEFAULT_OPTIONS
) -> AbstractAsyncContextManager[trio.abc.Stream]:
    """Keep a connection open while the block runs; see :meth:`TransportRegistry.connect`."""
    return _registry.connect(address, options)
