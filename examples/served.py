"""The second part of `make demo`: the functions of examples/documents.py behind `spear serve`.

The functions are called over HTTP with the standard library alone. Calls go on while one of the processes
is killed, and while all of them are replaced.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
SPEAR = [sys.executable, "-m", "spear"]
CALLERS = 4


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        # A separate directory for the control socket, so that other hosts of this user are not disturbed.
        environment = {**os.environ, "XDG_RUNTIME_DIR": place, "NO_COLOR": "1"}
        with serving(environment) as url:
            show_calls(url)
            show_trouble(url, environment)


def spear(environment: dict[str, str], *words: str) -> str:
    """Run a `spear` command, and return its standard output."""
    done = subprocess.run(
        [*SPEAR, *words], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[str]:
    """Run a host with two instances for as long as the block lasts; yield the host's URL."""
    words = ["serve", str(HERE / "documents.py"), "--replicas", "2", "--listen", "127.0.0.1:0"]
    print(f"spear serve {HERE.name}/documents.py --replicas 2")
    host = subprocess.Popen([*SPEAR, *words], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        for line in host.stdout:
            print(f"  {line.rstrip()}".replace(f"{HERE.parent}{os.sep}", ""))
            if line.startswith("http"):
                yield line.strip()
                break
        else:
            raise SystemExit("the host did not start")
    finally:
        host.terminate()  # the host drains, then exits
        status = host.wait(timeout=60)
    print(f"\nSIGTERM: the host has drained, exit status {status}")


def call(url: str, function: str, **arguments: object) -> object:
    request = urllib.request.Request(
        f"{url}/v1/functions/{function}/call",
        data=json.dumps(arguments).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def show_calls(url: str) -> None:
    print("\nPOST /v1/functions/words/call")
    print(f"  {call(url, 'words', path=str(README))}")
    print("POST /v1/functions/headings/stream")
    request = urllib.request.Request(
        f"{url}/v1/functions/headings/stream",
        data=json.dumps({"path": str(README)}).encode(),
        headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=30) as lines:
        for line in lines:
            if line.startswith((b"data:", b"event:")):
                print(f"  {line.decode().strip()}")
    print("POST /v1/functions/publish/call")
    try:
        call(url, "publish", path=str(README))
    except urllib.error.HTTPError as error:
        print(f"  {error.code} {json.load(error)}")


def show_trouble(url: str, environment: dict[str, str]) -> None:
    print(f"\n{CALLERS} callers call in a loop; meanwhile:")
    outcomes: Counter[str] = Counter()
    is_over = threading.Event()

    def keep_calling() -> None:
        while not is_over.is_set():
            try:
                call(url, "words", path=str(README))
                outcomes["answered"] += 1
            except urllib.error.HTTPError as error:
                outcomes[str(json.load(error)["error"]["kind"])] += 1

    callers = [threading.Thread(target=keep_calling) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(1)
        with urllib.request.urlopen(f"{url}/v1/instances", timeout=30) as response:
            victim = json.load(response)["instances"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        print(f"  kill -9 {victim['id']}: the host replaces this instance")
        time.sleep(1)
        print(f"  spear restart documents: {spear(environment, 'restart', 'documents').strip()}")
        top = spear(environment, "top", "--once")
    finally:
        is_over.set()
        for caller in callers:
            caller.join()
    print(f"  calls: {', '.join(f'{count} {what}' for what, count in outcomes.most_common())}")
    print("\nspear top --once, during the calls")
    print("".join(f"  {line}\n" for line in top.splitlines()), end="")


if __name__ == "__main__":
    main()
