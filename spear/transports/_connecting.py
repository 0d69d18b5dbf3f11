"""The deadline and the errors, which name the address, of every attempt to connect."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from spear._errors import ChannelBroken, ConfigurationError
from spear._limits import expect_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._addresses import Address


@contextmanager
def connecting_to(address: Address, seconds: float) -> Iterator[None]:
    """Limit the block to ``seconds``, and map exceptions of the operating system to Spear's errors."""
    expect_seconds("seconds", seconds)
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise ChannelBroken(f"no connection to {address} within {seconds:g} s") from None
    except OSError as exc:
        raise ChannelBroken(f"cannot connect to {address}: {exc.strerror or exc}") from exc
    except UnicodeError as exc:
        raise ConfigurationError(f"{address}: invalid host name: {exc}") from exc
