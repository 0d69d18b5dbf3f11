"""The output of ``spear top`` for two snapshots, and of ``spear ps`` for one."""

from __future__ import annotations

import pytest

from spear.cli._ps import show
from spear.cli._rates import Moment
from spear.cli._top_view import SORTS, Line, lay_out

from .documents import deployment, function, instance, snapshot

BEFORE = snapshot(
    100.0,
    deployment("shop", {"price": function(1000), "bill": function(5)}, [instance("shop", 1)]),
)
NOW = snapshot(
    102.0,
    deployment(
        "shop",
        {"price": function(3000, failures=4, mean=0.0004), "bill": function(5), "new": function(8)},
        [instance("shop", 1, cpu=2.5), instance("shop", 2, state="starting", memory=None)],
    ),
    deployment("bank", {}, [], state="unhealthy", reason="it ends\nagain and again"),
)


def lines(
    moment: Moment, *, width: int = 80, height: int | None = None, sort: str = "n"
) -> list[Line]:
    found = lay_out(moment, width=width, height=height, sort=sort)
    assert all(len(each.text) <= width for each in found)
    return found


def row(found: list[Line], name: str) -> list[str]:
    (line,) = [each for each in found if each.text.split()[:1] == [name]]
    return line.text.split()


def test_the_rates_for_scripts_are_those_of_the_screen() -> None:
    shown = Moment(NOW, BEFORE).document()
    rates = shown.pop("rates")
    assert shown == NOW
    unused = {"calls_per_second": 0.0, "failures_per_second": 0.0}
    assert rates == {
        "seconds": 2.0,
        "calls_per_second": 1004.0,
        "failures_per_second": 2.0,
        "cpu_share": 0.75,
        "deployments": {
            "shop": {
                "calls_per_second": 1004.0,
                "failures_per_second": 2.0,
                "cpu_share": 0.75,
                "functions": {
                    "price": {"calls_per_second": 1000.0, "failures_per_second": 2.0},
                    "bill": unused,
                    "new": {"calls_per_second": 4.0, "failures_per_second": 0.0},
                    "unused": unused,
                },
                "instances": {
                    "process:shop-1#1": {"cpu_share": 0.75},
                    "process:shop-2#1": {"cpu_share": None},
                },
            },
            "bank": {
                "calls_per_second": None,
                "failures_per_second": None,
                "cpu_share": None,
                "functions": {"unused": {"calls_per_second": None, "failures_per_second": None}},
                "instances": {},
            },
        },
    }
    assert Moment(NOW).document() == {**NOW, "rates": None}


def test_rates_are_differences() -> None:
    found = lines(Moment(NOW, BEFORE))
    assert found[0] == Line("spearlet default, pid 4700, running for 1h03m", "title")
    assert found[1].text == (
        "calls/s 1004   errors/s 2   instances 2   submitted 5   connections 2"
    )
    # name, state, ready, running, waiting, calls/s, errors/s, CPU, memory
    assert row(found, "shop") == ["shop", "ready", "2/2", "3", "4", "1004", "2", "75%", "32M"]
    assert row(found, "bank")[:3] == ["bank", "unhealthy", "0/2"]
    # name, calls/s, errors/s, calls, errors, mean, p50, p99
    assert row(found, "shop.price") == [
        "shop.price",
        "1000",
        "2",
        "3000",
        "4",
        "400µs",
        "360µs",
        "1.6ms",
    ]
    assert row(found, "shop.bill")[1] == "0"
    assert row(found, "shop.new")[1] == "4"  # it is new, so all of its calls are
    assert row(found, "shop.unused") == ["shop.unused", "0", "0", "0", "0", "-", "-", "-"]
    # name, state, pid, age, running, CPU, memory, threads
    assert row(found, "shop-1#1") == ["shop-1#1", "ready", "4711", "1m00s", "1", "75%", "32M", "2"]
    assert row(found, "shop-2#1") == ["shop-2#1", "starting", "4712", "2m00s", "2", "-", "-", "2"]
    assert Line("bank: it ends", "bad") in found
    states = {each.state for each in found if each.state[0]}
    assert states == {("ready", "good"), ("unhealthy", "bad"), ("starting", "so-so")}


def test_a_first_snapshot_has_no_rates() -> None:
    found = lines(Moment(NOW))
    assert row(found, "shop.price") == [
        "shop.price",
        "-",
        "-",
        "3000",
        "4",
        "400µs",
        "360µs",
        "1.6ms",
    ]
    assert row(found, "shop")[5:] == ["-", "-", "-", "32M"]
    # Nor has a snapshot with the same time.
    assert row(lines(Moment(NOW, NOW)), "shop.price")[1] == "-"


def test_counters_that_began_anew_are_no_negative_rates() -> None:
    after = snapshot(104.0, deployment("shop", {"price": function(10)}, [instance("shop", 1)]))
    found = lines(Moment(after, NOW))
    assert row(found, "shop.price")[1] == "0"
    assert row(found, "shop-1#1")[5] == "0%"


def test_keys_sort() -> None:
    two = [instance("a", 1, cpu=5, memory=1 << 20), instance("a", 2, cpu=9, memory=1 << 19)]
    before = [instance("a", 1, cpu=4), instance("a", 2, cpu=4)]
    functions = {
        "x": function(20, mean=1),
        "y": function(30, mean=2),
        "z": function(10, failures=5, mean=3),
    }
    zero = {name: function(0) for name in functions}
    moment = Moment(
        snapshot(1.0, deployment("a", functions, two)), snapshot(0.0, deployment("a", zero, before))
    )

    def order(sort: str, names: list[str]) -> list[str]:
        found = [each.text.split()[0] for each in lines(moment, sort=sort) if each.text]
        return [each for each in found if each in names]

    every = ["a.x", "a.y", "a.z"]
    assert order("n", every) == every
    assert order("c", every) == ["a.y", "a.x", "a.z"]
    assert order("e", every) == ["a.z", "a.x", "a.y"]
    assert order("l", every) == ["a.z", "a.y", "a.x"]
    instances = ["a-1#1", "a-2#1"]
    assert order("u", instances) == ["a-2#1", "a-1#1"]
    assert order("m", instances) == instances
    assert set(SORTS) == set("neclum")


def test_what_does_not_fit_is_counted() -> None:
    many = snapshot(
        1.0,
        deployment("one", {f"f{n:03}": function(1) for n in range(100)}, []),
        deployment("two", {}, [instance("two", n) for n in range(50)]),
    )
    found = lines(Moment(many), height=30)
    texts = [each.text for each in found]
    assert len(texts) <= 30
    assert row(found, "one")
    assert row(found, "two")  # small tables are shown in full
    counted = [each for each in texts if each.startswith("... and ")]
    assert len(counted) == 2
    shown = sum(each.startswith("one.f") for each in texts)
    assert f"... and {102 - shown} more" in counted  # includes two without calls
    tiny = lines(Moment(many), width=20, height=8)
    assert len(tiny) == 8
    assert all(len(each.text) <= 20 for each in tiny)
    assert lines(Moment(snapshot(1.0)), height=24)[0].text.startswith("spearlet default")


def test_long_names_take_the_room_that_is_left() -> None:
    name = "a-rather-long-name-of-a-deployment-that-goes-on"
    one = snapshot(1.0, deployment(name, {"function": function(1)}, []))
    narrow, wide = lines(Moment(one)), lines(Moment(one), width=160)
    assert not any(f"{name}.function " in each.text for each in narrow)
    assert any(each.text.startswith(f"{name}.function ") for each in wide)


@pytest.mark.parametrize(
    "document", [{}, {"deployments": [{}, 7]}, {"deployments": {}}, {"time": "x"}]
)
def test_a_host_that_tells_nonsense(document: dict[str, object]) -> None:
    assert lines(Moment(document, document))
    assert list(show(document, with_instances=True))


def test_tables_of_what_runs() -> None:
    tail = "Traceback\x1b[2J\n" + "more\n" * 20 + "KeyError: 'x'\n"
    now = snapshot(
        0.0,
        deployment("shop", {"price": function(12_345, failures=3)}, [instance("shop", 1)]),
        deployment("bank", {}, [], state="unhealthy", reason="ends again\nand again", tail=tail),
    )
    text = "\n".join(show(now, with_instances=True))
    assert text == (
        "spearlet default, pid 4700, running for 1h02m\n"
        "\n"
        "DEPLOYMENT  STATE      READY  RUNNING  WAITING  CALLS  FAILED  RESTARTS  REASON\n"
        "shop        ready        1/2        3        4  12.3k       3         1  -\n"
        "bank        unhealthy    0/2        3        4      0       0         1  ends again\n"
        "\n"
        "FUNCTION     CALLS  FAILED  MEAN    P50    P90  P99\n"
        "shop.price   12.3k       3   1ms  900µs  1.5ms  4ms\n"
        "shop.unused      0       0     -      -      -    -\n"
        "bank.unused      0       0     -      -      -    -\n"
        "\n"
        "INSTANCE          STATE   PID    AGE  RUNNING  CPU  MEMORY  REASON\n"
        "process:shop-1#1  ready  4711  1m00s        1   1s     32M  -\n"
        "\n"
        "last output of bank:\n" + "  more\n" * 11 + "  KeyError: 'x'"
    )
    assert "INSTANCE" not in "\n".join(show(now, with_instances=False))
    assert list(show(snapshot(0.0), with_instances=True))[-1] == "no deployments"


def test_a_stopped_deployment_has_a_row() -> None:
    alone = list(show(snapshot(0.0) | {"stopped": ["shop"]}, with_instances=True))
    assert alone[-1].split() == ["shop", "stopped", *"-------"]
    beside = snapshot(0.0, deployment("bank", {}, [])) | {"stopped": ["shop", 5]}
    rows = [each.split()[:2] for each in show(beside, with_instances=False)]
    assert ["shop", "stopped"] in rows
    assert ["bank", "ready"] in rows
