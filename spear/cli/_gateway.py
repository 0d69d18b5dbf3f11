"""Gateway settings from a host's configuration."""

from __future__ import annotations

import attrs

from spear._paths import absolute
from spear._places import socket_path
from spear.config import Configuration, HostConfiguration, read_token, split_listen
from spear.gateway import GatewaySettings, check_exposure


def control_socket(host: HostConfiguration) -> str:
    """Return the path of the host's control socket."""
    return absolute(host.control_socket or socket_path(host.name))


def gateway_settings(configuration: Configuration) -> GatewaySettings:
    """Return the settings of the gateway.

    Raises:
        ConfigurationError: the settings would expose the host to unauthorized clients, or are invalid.
    """
    host = configuration.spearlet
    address = split_listen(host.listen)
    settings = attrs.evolve(
        configuration.gateway,
        name=host.name,
        host=None if address is None else address[0],
        port=0 if address is None else address[1],
        token=None if host.token_file is None else read_token(host.token_file),
        tls_cert=host.tls_cert,
        tls_key=host.tls_key,
        allow_plaintext=host.allow_plaintext,
        allow_control=host.allow_control,
        control_socket=control_socket(host),
    )
    check_exposure(settings)
    return settings
