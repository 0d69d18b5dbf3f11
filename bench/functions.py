"""The functions that Spear's own measurements call."""

import spear

app = spear.Agent()


@app.function
async def echo(body: bytes) -> bytes:
    return body
