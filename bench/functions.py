"""The functions that Spear's own measurements call."""

import spear

app = spear.Agent()


@app.function
def plain_echo(body: bytes) -> bytes:
    """Return the body, from a worker thread, like every function without `async`."""
    return body


@app.function
async def echo(body: bytes) -> bytes:
    return body
