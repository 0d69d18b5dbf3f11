"""What every connect has in common: one deadline, and errors that say where we wanted to go."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from spear._errors import ChannelBroken, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear._limits import WireLimits

    from ._addresses import Address


@contextmanager
def connecting_to(address: Address, limits: WireLimits) -> Iterator[None]:
    """Bound the block by ``limits.connect_seconds`` and map what the operating system raises."""
    try:
        with trio.fail_after(limits.connect_seconds):
            yield
    except trio.TooSlowError:
        raise ChannelBroken(
            f"no connection to {address} within {limits.connect_seconds:g} s"
        ) from None
    except OSError as exc:
        raise ChannelBroken(f"cannot connect to {address}: {exc.strerror or exc}") from exc
    except UnicodeError as exc:
        raise ConfigurationError(f"{address}: not a host name: {exc}") from exc
