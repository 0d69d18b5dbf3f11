"""A running host, as :class:`spear.Spearlet` but over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, final
from urllib.parse import quote

from spear._errors import NotFound
from spear._limits import expect_seconds
from spear._util import NoPublicConstructor, did_you_mean
from spear.channels import protected_class

from ._deployment import RemoteDeployment, functions_untrusted

if TYPE_CHECKING:
    from spear.calls import Execution, Function

    from ._client import HostClient


@final
@protected_class
class RemoteHost(metaclass=NoPublicConstructor):
    """A running host. Made by :func:`spear.connect`.

    Deployments and functions are looked up in the last list of the host. :func:`spear.connect`,
    :meth:`refresh` and :meth:`deployment` ask for a new one.

    Attributes:
        where: the host's address for people, without its token.
    """

    def __init__(self, client: HostClient) -> None:
        self.where = client.address.where
        self._client = client
        self._deployments: dict[str, RemoteDeployment] = {}

    def __repr__(self) -> str:
        return f"<RemoteHost {self.where}>"

    @property
    def deployments(self) -> dict[str, RemoteDeployment]:
        """The deployments by name, as the host last listed them."""
        return dict(self._deployments)

    async def deployment(self, name: str) -> RemoteDeployment:
        """Return a deployment by its name, with the functions that it has now. A checkpoint.

        Raises:
            NotFound: the host has no such deployment; the message names some that it has.
            NoHost: the host does not respond.
        """
        await self.refresh()
        found = self._deployments.get(name)
        if found is None:
            known = ", ".join(self._deployments) or "none"
            raise NotFound(
                f"{self.where} has no deployment {str(name)[:100]!r}"
                f"{did_you_mean(str(name), self._deployments)}; deployments: {known[:500]}"
            )
        return found

    async def refresh(self) -> None:
        """Ask the host for its deployments and functions. A checkpoint.

        Raises:
            NoHost: no host responds at the address, or another kind of server.
            AuthenticationFailed: the host needs another token.
        """
        document = await self._client.get("/v1/functions")
        try:
            listed = functions_untrusted(document)
        except NotFound:
            raise self._client.not_a_host() from None
        deployments: dict[str, RemoteDeployment] = {}
        for name, functions in listed.items():
            deployment = self._deployments.get(name)
            if deployment is None:
                deployment = RemoteDeployment._create(name, self._client)
            deployment._update_untrusted(functions)
            deployments[name] = deployment
        self._deployments = deployments

    # -- the host itself ----------------------------------------------------------------------

    async def status(self) -> dict[str, object]:
        """Return the state and the statistics of the host, as ``GET /v1/statistics`` has them.

        A checkpoint. docs/http.md describes the document.
        """
        return await self._client.get("/v1/statistics")

    async def execution(self, execution_id: str) -> Execution:
        """Return a submitted call by its id, also one that another program has submitted. A checkpoint.

        Raises:
            NotFound: the host has no such execution, or has forgotten it.
        """
        path = f"/v1/executions/{quote(str(execution_id), safe='')}"
        document = await self._client.get(path)
        deployment = self._deployments.get(str(document.get("deployment")))
        if deployment is None:
            deployment = await self.deployment(str(document.get("deployment")))
        return deployment._attach(str(document.get("function")), str(execution_id))

    async def drain(self, seconds: float | None = None) -> None:
        """Take no new calls, let running and queued calls finish, and stop the host. A checkpoint.

        Returns when the host has begun.

        Args:
            seconds: time for the calls; by default the host's ``shutdown_seconds``.

        Raises:
            ConfigurationError: ``seconds`` is no number of seconds, or this client may not operate the
                host.
        """
        if seconds is not None:
            expect_seconds("seconds", seconds)
        body = b"" if seconds is None else json.dumps({"seconds": seconds}).encode()
        await self._client.post("/v1/drain", body)

    # -- functions ----------------------------------------------------------------------------

    def find_function(self, name: str) -> Function:
        """Return a function by its name, or by ``deployment.name`` if several deployments have it.

        Raises:
            NotFound: no function has this name, or several have it.
        """
        homes = [
            (each, function)
            for each in self._deployments.values()
            for function in each.functions
            if name in (function, f"{each.name}.{function}")
        ]
        if len(homes) == 1:
            return homes[0][0].function(homes[0][1])
        if homes:
            choices = ", ".join(f"{each.name}.{function}" for each, function in homes)
            message = f"several deployments have a function {name!r}: use one of {choices}"
            raise NotFound(message, code="ambiguous_name")
        known = {function for each in self._deployments.values() for function in each.functions}
        raise NotFound(f"{self.where} has no function {name[:100]!r}{did_you_mean(name, known)}")
