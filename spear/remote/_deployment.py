"""A deployment of a host, as :class:`spear.Deployment` but over HTTP."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, cast, final
from urllib.parse import quote

import attrs

from spear._errors import ConfigurationError, NotFound
from spear._retry_policy import RetryPolicy
from spear._util import NoPublicConstructor, did_you_mean
from spear.calls import NO_OPTIONS, Function, FunctionDescription, RetryBudget
from spear.channels import protected_class

from ._calls import RemoteCalls
from ._submitted import attach

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from spear.calls import Execution

    from ._client import HostClient

CALL_SECONDS = 60.0
"""Default timeout of a call to a host that does not say its own."""


@final
@protected_class
class RemoteDeployment(metaclass=NoPublicConstructor):
    """A deployment of a running host. Its functions are its attributes.

    Made by :meth:`RemoteHost.deployment`. Functions are :class:`spear.Function` objects, as those of a
    deployment in this process; the end of the block of :func:`spear.connect` ends neither them nor the
    deployment, which belongs to the host.

    Attributes:
        name: its name.
        functions: the names of its functions, as the host last listed them. If an attribute listed here
            has the same name, use :meth:`function`.
        streams: the names of the functions that send items.
        retry_policies: the retry policies that the host has for functions, by name.
        timeouts: the default timeout of each function, in seconds, by name.
    """

    def __init__(self, name: str, client: HostClient) -> None:
        self.name = name
        self.functions: tuple[str, ...] = ()
        self.streams: frozenset[str] = frozenset()
        self.retry_policies: Mapping[str, RetryPolicy] = {}
        self.timeouts: Mapping[str, float] = {}
        self.retries = RetryBudget(name)
        self.rng = random.Random()  # noqa: S311  # spreads load, protects nothing
        self._descriptions: dict[str, FunctionDescription] = {}
        self._client = client
        self._by_name: dict[str, Function] = {}

    def __repr__(self) -> str:
        return f"<RemoteDeployment {self.name} of {self._client.address.where}>"

    def function(self, name: str) -> Function:
        """Return a function by its name.

        Raises:
            NotFound: the host has listed no such function; the message suggests one.
        """
        known = self._by_name.get(name)
        if known is not None:
            return known
        if name not in self.functions:
            hint = did_you_mean(name, self.functions)
            raise NotFound(f"{self.name} has no function {name!r}{hint}")
        function = self._by_name[name] = cast("Function", Function._create(self._calls_of(name)))
        return function

    def _calls_of(self, name: str) -> RemoteCalls:
        path = f"/v1/functions/{quote(f'{self.name}.{name}', safe='')}"
        is_stream = name in self.streams
        return RemoteCalls(name, self, self._client, path, NO_OPTIONS, is_stream=is_stream)

    def _attach(self, function: str, execution_id: str) -> Execution:
        """Return the execution of a submitted call of a function."""
        return attach(self._calls_of(function), execution_id)

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]

    def _update_untrusted(self, listed: Iterable[Mapping[object, object]]) -> None:
        """Take over the functions that the host has listed."""
        functions: list[str] = []
        streams: set[str] = set()
        policies: dict[str, RetryPolicy] = {}
        timeouts: dict[str, float] = {}
        descriptions: dict[str, FunctionDescription] = {}
        for each in listed:
            name = str(each.get("name"))
            functions.append(name)
            if each.get("kind") == "stream":
                streams.add(name)
            if (policy := _policy_untrusted(each.get("retry"))) is not None:
                policies[name] = policy
            seconds = each.get("timeout_seconds")
            timeouts[name] = seconds if isinstance(seconds, float | int) else CALL_SECONDS
            signature, summary = each.get("signature"), each.get("summary")
            if isinstance(signature, str) and isinstance(summary, str):
                descriptions[name] = FunctionDescription(signature=signature, summary=summary)
        if frozenset(streams) != self.streams:
            self._by_name.clear()
        self.functions, self.streams = tuple(functions), frozenset(streams)
        self.retry_policies, self.timeouts = policies, {**self.timeouts, **timeouts}
        self._descriptions = descriptions

    # -- operating ----------------------------------------------------------------------------

    async def status(self) -> dict[str, object]:
        """Return its state, statistics and instances, as ``GET /v1/deployments/{name}`` has them.

        A checkpoint. docs/http.md describes the document.

        Raises:
            NotFound: the host has no such deployment any more.
        """
        return await self._client.get(self._path)

    async def scale(self, replicas: int | attrs.AttrsInstance) -> None:
        """Change the number of replicas, as a :class:`spear.Deployment` does. A checkpoint.

        If cancelled, scaling goes on at the host; so it is with the other operations.

        Args:
            replicas: a fixed number, or a :class:`spear.Scale`.

        Raises:
            ConfigurationError: the number is not possible, or this client may not operate the host.
            SpawnFailed: a new replica did not start.
        """
        wanted = attrs.asdict(replicas) if attrs.has(type(replicas)) else {"replicas": replicas}  # type: ignore[arg-type]  # checked just before
        try:
            body = json.dumps(wanted, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ConfigurationError.about(
                "replicas", f"must be a number or a Scale: {error}"
            ) from None
        await self._client.post(f"{self._path}/scale", body)

    async def restart(self) -> None:
        """Replace every replica, as a :class:`spear.Deployment` does. A checkpoint.

        Raises:
            SpawnFailed: a new replica did not start; the other old ones go on.
            ConfigurationError: this client may not operate the host.
        """
        await self._client.post(f"{self._path}/restart")

    async def stop(self) -> None:
        """Stop all replicas; running and queued calls may finish for a while. A checkpoint.

        Raises:
            ConfigurationError: this client may not operate the host.
        """
        await self._client.post(f"{self._path}/stop")

    async def start(self) -> None:
        """Start it, if it is a deployment of the host's configuration that was stopped. A checkpoint.

        Raises:
            SpawnFailed: a replica did not start.
            ConfigurationError: this client may not operate the host.
        """
        await self._client.post(f"{self._path}/start")

    @property
    def _path(self) -> str:
        return f"/v1/deployments/{quote(self.name, safe='')}"

    # -- functions as the host describes them -------------------------------------------------

    async def descriptions(self) -> dict[str, FunctionDescription]:
        """Return descriptions of its functions by name, as the host gives them. A checkpoint."""
        document = await self._client.get("/v1/functions")
        listed = functions_untrusted(document).get(self.name)
        if listed is None:
            raise NotFound(f"{self._client.address.where} has no deployment {self.name!r} any more")
        self._update_untrusted(listed)
        return dict(self._descriptions)


def functions_untrusted(
    document: Mapping[str, object],
) -> dict[str, list[Mapping[object, object]]]:
    """Return the functions in a host's list by deployment. Raises NotFound for another document."""
    found: dict[str, list[Mapping[object, object]]] = {}
    functions = document.get("functions")
    if not isinstance(functions, list):
        raise NotFound("the response has no list of functions")
    for each in functions:
        if isinstance(each, dict):
            found.setdefault(str(each.get("deployment")), []).append(each)
    return found


def _policy_untrusted(value: object) -> RetryPolicy | None:
    if not isinstance(value, dict):
        return None
    try:
        return RetryPolicy(**value)
    except (TypeError, ConfigurationError):
        return None
