"""Values with codecs over HTTP, which the gateway passes on, and shows as JSON or CBOR."""

from __future__ import annotations

from typing import cast

import cbor2

import spear
from spear.wire import CODED_TAG

from .helpers import ask, open_site


class Weight:
    """A class with a codec."""

    def __init__(self, grams: int) -> None:
        self.grams = grams


def weight_of(content: object) -> Weight:
    if not isinstance(content, int):
        raise TypeError("not a number of grams")
    return Weight(content)


spear.codec(Weight, lambda weight: weight.grams, weight_of, name="tests.Weight")
FORM = b'{"value": {"$codec": ["tests.Weight", 5]}}'


async def test_a_client_sends_and_gets_the_form_in_json() -> None:
    async with open_site() as site:
        path = "/v1/functions/echo/call"
        reply = await ask(site.gateway, "POST", path, body=FORM)
        assert (reply.status, reply.body) == (200, b'{"$codec": ["tests.Weight", 5]}')
        reply = await ask(
            site.gateway, "POST", path, body=FORM, headers={"accept": "application/cbor"}
        )
        tag = cbor2.loads(reply.body)
        assert (tag.tag, list(tag.value)) == (CODED_TAG, ["tests.Weight", 5])


async def test_the_gateway_decodes_nothing_that_a_client_sends() -> None:
    async with open_site() as site:
        body = cbor2.dumps({"value": cbor2.CBORTag(CODED_TAG, ["tests.Weight", "five"])})
        headers = {"content-type": "application/cbor"}
        path = "/v1/functions/echo/call"
        reply = await ask(site.gateway, "POST", path, body=body, headers=headers)
        error = cast("dict[str, dict[str, str]]", reply.json)["error"]
        assert (reply.status, error["kind"], error["code"]) == (
            400,
            "InvalidArguments",
            "codec_failed",
        )
        assert error["got"] == "tests.Weight"
