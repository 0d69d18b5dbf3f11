"""The bootstrap from environment variables, for an agent that was not started by Spear.

The variables are ``SERVICE_ADDR`` (an address as text), ``SECRET`` (64 hexadecimal digits) and
``SPEAR_INSTANCE`` (``process:name#incarnation``). A secret in the environment can be read by any process
that may read ``/proc/<pid>/environ``: prefer the record on a pipe (see ``spear.wire.BootstrapRecord``).
The variables are removed when they are read, so that child processes do not inherit them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import ConfigurationError
from spear._ids import InstanceId, Secret
from spear.transports import parse_address
from spear.wire import BootstrapRecord, OfferedAddress

if TYPE_CHECKING:
    from collections.abc import MutableMapping

ADDRESS, SECRET, INSTANCE = VARIABLES = ("SERVICE_ADDR", "SECRET", "SPEAR_INSTANCE")


def take_environment(environ: MutableMapping[str, str]) -> BootstrapRecord | None:
    """Remove the bootstrap variables, and return their record; None if they name no host.

    Raises:
        ConfigurationError: a variable is missing or invalid; the message never shows the secret.
    """
    values = {name: environ.pop(name, None) for name in VARIABLES}
    if values[ADDRESS] is None:
        return None
    for name, value in values.items():
        if not value:
            raise ConfigurationError(f"{ADDRESS} is set, but {name} is not")
    try:
        secret = Secret(bytes.fromhex(str(values[SECRET])))
    except ValueError:
        raise ConfigurationError(f"{SECRET} must be 64 hexadecimal digits") from None
    text = str(values[INSTANCE])
    runtime, _, rest = text.partition(":")
    name, _, incarnation = rest.rpartition("#")
    try:
        # int() alone accepts digits of other scripts, underscores and spaces.
        if not (incarnation.isascii() and incarnation.isdecimal()):
            raise ValueError("the form must be process:name#1")
        instance_id = InstanceId(runtime, name, int(incarnation))
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{INSTANCE}={text!r}: {error}") from None
    address = str(parse_address(str(values[ADDRESS])))  # refuse a bad address before loading
    return BootstrapRecord(
        addresses=(OfferedAddress(address),), secret=secret, instance_id=instance_id
    )
