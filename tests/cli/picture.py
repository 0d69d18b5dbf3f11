"""Makes ``docs/images/top.svg``: ``python -m tests.cli.picture docs/images/top.svg``.

Shows a real host with the examples' functions under some load, and one deployment that crashes.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from .screens import on_screen
from .serving import Host, serving

EXAMPLES = Path(__file__).parents[2] / "examples"

CONFIG = """
[functions.shop]
source = "shop.py"
replicas = 3

[functions.documents]
source = "documents.py"
replicas = { min = 1, max = 4 }

[functions.legacy]
source = "legacy.py"
restart = { intensity = 0, retry_seconds = inf }
"""

LEGACY = """
import os, spear
app = spear.Agent()
@app.function
async def convert() -> None:
    os._exit(1)
"""

ORDER = {"customer": "Ada", "lines": [{"item": "tea", "count": 2}]}
LOAD = [
    ("price", ["tea"], 3),
    ("total", [ORDER], 2),
    ("fingerprint", [{"$bytes": "c3BlYXI="}, 20_000], 1),
    ("refund", [ORDER], 1),
    ("primes", [20_000], 2),
    ("legacy.convert", [], 1),
]
PAUSES = {"refund": 0.2, "legacy.convert": 0.5, "fingerprint": 0.02, "primes": 0.02}


def load(host: Host, function: str, arguments: list[object], stop: threading.Event) -> None:
    """Call a function repeatedly until ``stop`` is set."""
    connection = host.connect()
    body = json.dumps(arguments)
    headers = {"Content-Type": "application/json"}
    pause = {"refund": 0.2, "legacy.convert": 0.5, "fingerprint": 0.02, "primes": 0.02}.get(
        function, 0.002
    )
    while not stop.wait(pause):
        try:
            connection.request("POST", f"/v1/functions/{function}/call", body, headers)
            connection.getresponse().read()
        except (http.client.HTTPException, OSError):
            connection.close()


def main(path: str) -> None:
    """Draw the picture, and write it to ``path``."""
    place = Path(tempfile.mkdtemp(prefix="sp-"))
    stop = threading.Event()
    try:
        for name in ("shop.py", "documents.py"):
            shutil.copy(EXAMPLES / name, place)
        (place / "legacy.py").write_text(LEGACY)
        (place / "spear.toml").write_text(CONFIG)
        with serving(place) as host:
            for function, arguments, count in LOAD:
                for _ in range(count):
                    threading.Thread(
                        target=load, args=(host, function, arguments, stop), daemon=True
                    ).start()
            with on_screen("top", "--sort", "calls/s", environment=host.environment) as screen:
                screen.resize(80, 30)
                screen.wait_until(lambda text: " 4s\n" in text.partition("\n\n")[0])
                Path(path).write_text(screen.picture(), encoding="utf-8")
                print(screen.text)  # noqa: T201  # for the user of this program
                screen.type("q")
                screen.wait_ended()
            stop.set()
            host.end()
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1])
