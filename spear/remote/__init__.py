"""A running host, called over HTTP: its deployments and functions, as those of a spearlet."""

from ._connect import ConnectArguments as ConnectArguments
from ._connect import connect as connect
from ._deployment import RemoteDeployment as RemoteDeployment
from ._host import RemoteHost as RemoteHost
