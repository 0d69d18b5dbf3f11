"""The contract of transports: objects that parse addresses, listen and connect.

Listeners and connections are opened as ``async with`` blocks, so that a transport may own tasks: a reader
of WebSocket frames, an HTTP/2 connection that carries many streams. Transports over sockets need no
tasks, and use :class:`Opening`.

This module knows no concrete transport.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, TypeVarTuple, Unpack, final

import attrs
import trio

from spear._errors import ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS, expect_seconds, shown

from ._addresses import Reach

if TYPE_CHECKING:
    from types import TracebackType

    from ._abc import Listener
    from ._addresses import Address
    from ._tls import TlsClient

Resource = TypeVar("Resource", bound=trio.abc.AsyncResource)
Args = TypeVarTuple("Args")

MAX_TRANSPORT_NAME: Final = 32
"""Most characters of a transport's name; the same limit as for runtimes."""

_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TRANSPORT_NAME}}}")

GetDirectory: TypeAlias = Callable[[], str]
"""A function that returns a directory that only this user can enter, and makes it on the first call.
Raises ConfigurationError if the directory cannot be made."""


def _no_directory() -> str:
    raise ConfigurationError(
        "no directory for a socket: pass address or get_directory to ListenOptions"
    )


@final
@attrs.frozen(kw_only=True)
class ListenOptions:
    """A listener's options. Settings for all listeners of a transport belong to the transport.

    Attributes:
        name: a name for the listener, unique among the host's open listeners; letters, digits, ``-`` and
            ``_``. Transports that choose an address themselves derive it from this name.
        address: the address to listen on; None lets the transport choose.
        get_directory: returns the private directory for the transports' files, made on the first call.
    """

    name: str = ""
    address: Address | None = None
    get_directory: GetDirectory = _no_directory


@final
@attrs.frozen(kw_only=True)
class ConnectOptions:
    """A connection's options.

    Attributes:
        seconds: time limit to resolve a name, connect, and finish the transport's own handshake.
        tls: settings to verify the listener. None trusts the system's authorities. Unix sockets and
            memory use no TLS and ignore the settings; TCP without TLS refuses them.
    """

    seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
    tls: TlsClient | None = None

    def __attrs_post_init__(self) -> None:
        expect_seconds("seconds", self.seconds)


class Transport(ABC):
    """A way of moving bytes between a host and its instances.

    A host finds transports by name: first the ones passed to ``open_spearlet(transports=...)``, then
    Spear's own, then the entry points ``spear.transports`` of installed distributions. An agent finds
    transports by the scheme of an address, in the same way: a scheme that differs from the transport's
    name needs an entry point named after the scheme, too.

    Attributes:
        name: the name in strategies; 1 to 32 letters, digits, ``-`` and ``_``.
        schemes: the schemes of its addresses, of the same characters. By default the name alone.
        farthest: the greatest :class:`Reach` of its addresses with any settings.
    """

    name: str
    schemes: tuple[str, ...] = ()
    farthest: Reach = Reach.NETWORK

    def __init_subclass__(cls) -> None:
        """Make the name the only scheme of a class that defines no schemes."""
        super().__init_subclass__()
        if "name" in cls.__dict__ and "schemes" not in cls.__dict__:
            cls.schemes = (cls.name,)

    @abstractmethod
    def parse(self, address: str) -> Address:
        """Return the address that the text names; its scheme is one of :attr:`schemes`.

        Opens no socket. ``parse(str(address)) == address`` for every address of this transport.

        Raises:
            ConfigurationError: the text after the scheme is not a valid address.
        """

    @abstractmethod
    def listen(self, options: ListenOptions) -> AbstractAsyncContextManager[Listener]:
        """Listen while the block runs; leaving it closes the listener.

        An exception of the block is raised as it is, not in a group. Cancellation while entering leaves
        nothing open. A host limits the time to enter to a share of ``startup_seconds``. If this time has
        passed, or ``listen`` fails, the host tries the next transport of the strategy.

        Raises:
            ConfigurationError: the address is unsafe; CannotListen, a subclass, if the address is taken,
                or is not an address of this machine.
            OSError: the system refuses to listen.
        """

    @abstractmethod
    def connect(
        self, address: Address, options: ConnectOptions
    ) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """Connect, and keep the connection open while the block runs; leaving the block closes it.

        The connection is ready for the protocol. An exception of the block is raised as it is, not in a
        group. Cancellation while entering leaves nothing open.

        Raises:
            ChannelBroken: no program listens there, or there was no connection within
                ``options.seconds``. With the code ``no_listener`` if no program will ever listen there
                again, such as when the socket file has been removed.
            AuthenticationFailed: the listener failed to prove its identity.
            ConfigurationError: this address and these options cannot work.
        """


def check_names(transport: Transport) -> None:
    """Check a transport's ``name``, ``schemes`` and ``farthest``. Raises ConfigurationError."""
    whose = type(transport).__qualname__
    name = getattr(transport, "name", None)
    schemes: object = transport.schemes
    if not _is_name(name):
        raise ConfigurationError(
            f"{whose}.name must be 1 to {MAX_TRANSPORT_NAME} letters, digits, - and _, not {shown(name)}"
        )
    if not isinstance(schemes, tuple) or not all(map(_is_name, schemes)):
        raise ConfigurationError(
            f"{whose}.schemes must be a tuple of names, such as ({name!r},), not {shown(schemes)}"
        )
    if not isinstance(transport.farthest, Reach):
        raise ConfigurationError(
            f"{whose}.farthest must be a Reach, not {shown(transport.farthest)}"
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


@final
class Opening(AbstractAsyncContextManager[Resource], Generic[Resource]):
    """A block that opens a listener or a stream without background tasks, and closes it at the end.

    Args:
        function: opens the listener or stream; called as ``await function(*args)``.
    """

    __slots__ = ("_open", "_resource")

    def __init__(
        self, function: Callable[[Unpack[Args]], Awaitable[Resource]], *args: *Args
    ) -> None:
        self._open: Callable[[], Awaitable[Resource]] = partial(function, *args)
        self._resource: Resource

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Resource:
        self._resource = await self._open()
        return self._resource

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Shielded: a checkpoint in a cancelled scope would replace the exception that ends the block.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._resource)
