"""The attributes of a call by which a policy may choose its instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from spear.channels import Metadata


@final
@attrs.frozen(kw_only=True)
class CallAttributes:
    """A call, as policies see it.

    Attributes:
        function: the function's name.
        session: the session that the caller named, if any.
        key: the idempotency key that the caller named, if any.
        metadata: the map that travels with the call, if any.
    """

    function: str
    session: str | None = None
    key: str | None = None
    metadata: Metadata | None = None
