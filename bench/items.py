"""The functions for maps, of Spear and of a pool of the standard library. All are plain."""

import os
import time

import spear

app = spear.Agent()

_FATAL = 7
_ITEM_SECONDS = 0.01


@app.function
def square(number: int) -> int:
    """Return the square of a number, in no time."""
    return number * number


@app.function
def fragile(number: int) -> int:
    """Return the number after 10 ms; one of the numbers ends the process."""
    time.sleep(_ITEM_SECONDS)
    if number == _FATAL:
        os._exit(1)
    return number
