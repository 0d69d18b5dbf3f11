"""Everything in Spear that reacts to failures, in one run. Prints the results as JSON, without messages.

``python -m messages.everything plain`` runs Spear unchanged, ``noisy`` with other messages here and in
its agents. With a second argument, ``reader``, one function of the command reads a message again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from . import noise

IS_NOISY = sys.argv[1:2] == ["noisy"]
if IS_NOISY:
    noise.install()

import attrs  # noqa: E402  # after the line that changes Spear, as all of these
import trio  # noqa: E402

import spear  # noqa: E402
import spear.cli._hints  # noqa: E402
from spear.cli import main  # noqa: E402
from spear.config import Flags, check_configuration, load_configuration  # noqa: E402
from spear.gateway import GatewaySettings, open_gateway  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TESTS = Path(__file__).resolve().parent.parent
TOKEN = "a-token-for-tests-0123456789"

NOISY_FRONT = f"""\
import sys
sys.path.insert(0, {str(TESTS)!r})
from messages import noise
noise.change_loaded()
"""

SHOP = """\
import os, sys
import spear
from spear.agent import Items

app = spear.Agent()

@app.function
def greet(name: str, loud: bool = False) -> str:
    return name.upper() if loud else name

@app.function
def join(names: list[str]) -> str:
    return " ".join(names)

@app.function
def size(data: bytes) -> int:
    return len(data)

@app.function
def wait(timeout: int = 0) -> int:
    return timeout

@app.function
async def total(numbers: Items[int]) -> int:
    return sum([each async for each in numbers])

@app.function
async def count(most: int):
    for each in range(most):
        yield each

@app.function
def boom(event: object = None) -> None:
    raise KeyError("nothing there")

@app.function
def full(event: object = None) -> None:
    raise spear.Overloaded("later", retry_after_seconds=7)

@app.function
def pattern(event: object = None) -> object:
    return {b"a": 1, '{"$bytes": "YQ=="}': 2}  # two keys that are the same in JSON

@app.function
async def die(once: object = None) -> str:
    if isinstance(once, str) and os.path.exists(once):
        return "done"
    if isinstance(once, str):
        open(once, "w").close()
    print("my last words", file=sys.stderr, flush=True)
    os._exit(3)
"""

CONFIGURATION = """\
[spearlet]
listen = "nowhere"
token_file = "missing"

[limits.wire]
max_calls = 0
heartbeat_seconds = 0.0001

[gateway]
idle_seconds = -1
detached_seconds = inf

[functions.a]
source = "shop.py"
replicas = { min = 3, max = 2 }
queue = -1
concurrency = 0
timeout = 0
dedup_seconds = -1
memory_bytes = 0
open_files = 2
pass_environment = ["A=B"]
environment_handover = true

[functions.a.restart]
intensity = -1
retry_seconds = 0

[functions.a.health]
interval_seconds = 0
failures = 0

[functions.a.environment]
"A=B" = "c"

[functions.b]
source = "shop\\u0000.py"
replicas = { max = 0, target = 2.0 }

[functions.c]
command = ["true", "{bootstrap_fd}"]
start = "zygote"
working_directory = "nowhere"
python_path = ["nowhere"]
"""

MESSAGES = {
    "message", "Message", "errorMessage", "says", "warnings", "request_id", "requestId", "stackTrace",
    "stderr_tail",
}  # fmt: skip
"""Keys of JSON whose values are texts for people, or differ in each run."""


said: list[str] = []
"""The messages that were left out."""


def without_messages(value: object) -> object:
    """Return JSON without texts for people."""
    if isinstance(value, dict):
        said.extend(str(value[key]) for key in ("message", "errorMessage", "says") if key in value)
        return {key: without_messages(each) for key, each in value.items() if key not in MESSAGES}
    return [without_messages(each) for each in value] if isinstance(value, list) else value


# -- settings -----------------------------------------------------------------------------------------


def faults_of(text: str) -> object:
    """Return the places of the faults of a configuration."""
    Path("spear.toml").write_text(text)
    loaded, faults = load_configuration("spear.toml", {}, Flags())
    check_configuration(loaded.configuration, faults)
    return sorted((each.where, each.key) for each in faults.each)


def ask_command(*words: str) -> object:
    """Return the exit status of the command, the JSON that it prints, and its hints."""
    with contextlib.ExitStack() as stack:
        output, errors = (stack.enter_context(open(each, "w")) for each in ("output", "errors"))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(errors))
        status = main(words)
    printed, complained = Path("output").read_text(), Path("errors").read_text()
    told = []
    for text in (printed, complained):
        with contextlib.suppress(ValueError):
            told.append(without_messages(json.loads(text)))
    lines = [each for each in complained.splitlines() if each.startswith(("hint:", "usage:"))]
    return {"status": status, "told": told, "lines": lines}


def check(listen: str, token: str) -> object:
    """Return the faults that ``spear serve --check`` finds."""
    Path("token").write_text(token)
    flags = ["--listen", listen, "--token-file", "token"] if token else ["--listen", listen]
    return ask_command("serve", "shop.py", *flags, "--check", "--json")


def settings() -> dict[str, object]:
    """Return the outcomes of everything that checks settings."""
    return {
        "configuration": faults_of(CONFIGURATION),
        "a token that is too short": check("127.0.0.1:0", "short"),
        "open to the world": check("0.0.0.0:0", ""),
        "a path that is too long": ask_command(
            "serve", "shop.py", "--control-socket", f"/tmp/{'x' * 200}", "--check", "--json"
        ),
        "no TOML": faults_of_file("a = \n= 3"),
        "a number that is too long": faults_of_file(f"a = 1\nb = {'9' * 5000}"),
    }


def faults_of_file(text: str) -> object:
    """Return the line that the error of a file names, without the text for people."""
    Path("wrong.toml").write_text(text)
    return ask_command("serve", "--config", "wrong.toml", "--check", "--json")


# -- the command -----------------------------------------------------------------------------------


def hints() -> dict[str, object]:
    """Return all hints that ``spear call`` gives about arguments."""
    calls = {
        "text": ("join", "[7]"),
        "truth": ("greet", "ann", "--loud", "yes"),
        "bytes": ("size", "data"),
        "items": ("total", "1"),
        "ours": ("wait", "--timeout", "5", "--timeouts", "x"),
        "missing": ("greet",),
        "unknown": ("greeet",),
        "raises": ("boom",),
        "full": ("full",),
        "dies": ("die",),
    }
    return {
        name: ask_command("call", f"shop.py:{function}", *words)
        for name, (function, *words) in calls.items()
    }


def ask_host(place: str) -> dict[str, object]:
    """Return the command's results for all errors of a host."""
    calls = {
        "text": ("join", "[7]"), "bytes": ("size", "data"), "missing": ("greet",), "raises": ("boom",),
        "full": ("full",), "dies": ("die",), "stream": ("count", "x"), "unknown": ("greeet",),
    }  # fmt: skip
    told = {name: ask_command("invoke", "--host", place, *words) for name, words in calls.items()}
    told["no execution"] = ask_command("result", "none", "--host", place, "--status", "--json")
    told["no deployment"] = ask_command("scale", "none", "2", "--host", place, "--json")
    told["too many"] = ask_command("scale", "shop", "100000", "--host", place, "--json")
    told["no host"] = ask_command("ps", "--host", f"{place}.none", "--json")
    return told


# -- over HTTP ----------------------------------------------------------------------------------------


@attrs.frozen
class Http:
    """A client of a gateway."""

    url: str

    def __call__(
        self, path: str, body: object = None, *, raw: bytes | None = None, **headers: str
    ) -> object:
        """Return the status of the answer, its headers about errors, and its JSON."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        every = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        every |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, every)  # a URL of this test
        try:
            answer = urllib.request.urlopen(request)  # a URL of this test
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            told = {
                name: answer.headers.get(name)
                for name in ("retry-after", "x-amzn-errortype", "x-amz-function-error")
            }
            try:
                found = without_messages(json.loads(answer.read() or b"null"))
            except ValueError:
                found = "not JSON"
            return [answer.status, told, found]


def ask_gateway(http: Http) -> dict[str, object]:
    """Return the gateway's answers to all errors, for its own clients and for those of AWS Lambda."""
    calls: dict[str, object] = {
        "greet": 7, "size": "x", "boom": None, "full": None, "die": None, "count": 2, "pattern": None,
        "none": None, "total": 1,
    }  # fmt: skip
    told: dict[str, object] = {}
    for name, argument in calls.items():
        told[name] = http(f"/v1/functions/{name}/call", [argument])
        told[f"{name} by Lambda"] = http(f"/2015-03-31/functions/{name}/invocations", argument)
    call = "/v1/functions/greet/call"
    told["no JSON"] = http(call, raw=b"{")
    told["too long a number"] = http(call, raw=b"9" * 5000)
    told["no Base64"] = http(call, raw=b'{"$bytes": "?"}')
    told["no token"] = http(call, {}, Authorization="Bearer none")
    told["no path"] = http("/nothing")
    told["no timeout"] = http(call, {"name": "x"}, Spear_Timeout="soon")
    told["no form"] = http(call, raw=b"a=1", Content_Type="application/x-www-form-urlencoded")
    told["no stream"] = http("/v1/functions/greet/stream", {"name": "x"})
    told["no Lambda"] = http("/2015-03-31/functions/%20/invocations", {})
    told["not known to Lambda"] = http(
        "/2015-03-31/functions/greet/invocations", {}, Authorization="Bearer none"
    )
    told["wrong scale"] = http("/v1/deployments/shop/scale", {"replicas": -1})
    return told


# -- in a program -------------------------------------------------------------------------------------


async def outcome(call: Callable[[], object]) -> object:
    """Return the result of a call, or all attributes of its failure but the message."""
    try:
        return await call()  # type: ignore[misc]  # the call is awaitable
    except spear.DeadlineExceeded as error:  # either end may notice first
        return [type(error).__name__, error.code]
    except spear.SpearError as error:
        carried: Mapping[str, object] = {
            name: value
            for name, value in vars(error).items()
            if name not in ("summary", "remote_message", "stderr_tail", "retry_after_seconds")
        }
        tail = getattr(error, "stderr_tail", "")
        return [type(error).__name__, error.code, error.delivered, carried, "last words" in tail]


async def in_a_program(spearlet: spear.Spearlet) -> dict[str, object]:
    """Return the outcomes of retries, keys, refusals and stalls."""
    shop = spearlet.deployments["shop"]
    greet, die = shop.function("greet"), shop.function("die")
    own = spearlet.deployments["own"].function("own")
    told = {
        "a type": await outcome(lambda: greet(7)),
        "a name": await outcome(lambda: greet("a", nam="b")),
        "too many": await outcome(lambda: greet("a", True, 3)),
        "twice": await outcome(lambda: greet("a", name="b")),
        "not sendable": await outcome(lambda: greet(object())),
        "too large": await outcome(lambda: shop.function("size")(bytes((32 << 20) + 1))),
        "a large head": await outcome(lambda: greet.options(metadata={"a": "x" * 70_000})("a")),
        "a head that cannot be": await outcome(
            lambda: greet.options(metadata={"a": {1, 2}})("a")  # type: ignore[dict-item]  # the mistake
        ),
        "no time": await outcome(lambda: greet.options(timeout=math.nan)("a")),
        "dies": await outcome(die),
        "dies once, with a key": await outcome(
            lambda: die.options(key="k")(os.path.abspath("died-once"))
        ),
        "the key, used otherwise": await outcome(lambda: die.options(key="k")("other")),
        "a stream": await outcome(lambda: shop.function("count")(3)),
        "waits for itself": await outcome(lambda: own.options(timeout=0.5)()),
    }
    results: list[object] = []

    async def call() -> None:
        results.append(await outcome(lambda: greet("a")))

    async with (
        trio.open_nursery() as nursery
    ):  # a call that meets a draining replica goes to another
        for _ in range(20):
            nursery.start_soon(call)
        nursery.start_soon(shop.restart)
    return told | {"while replicas are replaced": results}


def own_agent() -> spear.Agent:
    """Return an agent with one slot whose function calls itself."""
    agent = spear.Agent("own", concurrency=1)

    @agent.function
    async def own() -> object:
        return await spear.call("own.own")

    return agent


async def hosting() -> dict[str, object]:
    """Return the outcomes of everything that needs a host."""
    place = os.path.abspath("socket")
    settings = GatewaySettings(port=0, token=TOKEN, control_socket=place)
    async with spear.open_spearlet() as spearlet:
        await spearlet.deploy("shop.py", replicas=2)
        await spearlet.deploy(own_agent())
        async with open_gateway(spearlet, settings) as gateway:
            run = trio.to_thread.run_sync
            return {
                "program": await in_a_program(spearlet),
                "gateway": await run(ask_gateway, Http(gateway.urls[0])),
                "host": await run(ask_host, place),
            }


def read_a_message(error: object, usage: str, words: object) -> Iterable[str]:
    """Give a hint by reading a message, as the command once did."""
    if str(error).endswith("expected str, got int"):
        yield "hint: text that is valid JSON needs extra quotes"


def run() -> dict[str, object]:
    """Return all outcomes."""
    if sys.argv[2:] == ["reader"]:
        spear.cli._hints._hints = read_a_message
        return {"hints": ask_command("call", "shop.py:join", "[7]")}
    return {"settings": settings(), "hints": hints()} | trio.run(hosting)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ms-") as directory:
        os.chdir(directory)
        Path("shop.py").write_text((NOISY_FRONT if IS_NOISY else "") + SHOP)
        outcomes = run()
        os.chdir("/")
    sys.stdout.write(json.dumps({"outcomes": outcomes, "said": said}, indent=1, default=str))
