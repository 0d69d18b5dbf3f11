"""Rates of a host: differences between the counters of two snapshots. The first snapshot has none."""

from __future__ import annotations

import attrs

from ._documents import functions_of, inner, number, several, text, total

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._documents import Document


@attrs.frozen(kw_only=True)
class Rates:
    """The changes per second of a function's or instance's counters; None while they are unknown."""

    calls: float | None = None
    failures: float | None = None
    processor: float | None = None


def rates(now: Document, before: Document | None, elapsed: float | None) -> Rates:
    """Return the rates from the counters of two snapshots, ``elapsed`` seconds apart."""
    if before is None or not elapsed or elapsed <= 0:
        return Rates()

    def per_second(key: str) -> float:
        assert before is not None
        return max(0.0, total(now, key) - total(before, key)) / elapsed

    return Rates(
        calls=per_second("calls"),
        failures=per_second("failures"),
        processor=per_second("cpu_seconds"),
    )


@attrs.frozen
class Moment:
    """A snapshot and its predecessor."""

    now: Document
    before: Document | None = None

    @property
    def elapsed(self) -> float | None:
        """Seconds between the two snapshots; None if unknown."""
        then, now = number(self.before, "time"), number(self.now, "time")
        return None if then is None or now is None else now - then

    def functions(self, deployment: Document) -> Iterator[tuple[str, Document, Rates]]:
        """Yield the name, the statistics and the rates of each function of a deployment."""
        earlier = self._earlier(text(deployment, "name"))
        for name, one in functions_of(deployment):
            found = inner(earlier, "function_statistics", name)
            before = found or (None if earlier is None else {})
            yield name, one, rates(one, before, self.elapsed)

    def instances(self, deployment: Document) -> Iterator[tuple[Document, Rates]]:
        """Yield each instance of a deployment with its rates."""
        earlier = self._earlier(text(deployment, "name"))
        before = {text(each, "id"): each for each in several(earlier, "instances")}
        for one in several(deployment, "instances"):
            yield one, rates(one, before.get(text(one, "id")), self.elapsed)

    def _earlier(self, deployment: str) -> Document | None:
        found = several(self.before, "deployments")
        return next((each for each in found if text(each, "name") == deployment), None)

    def document(self) -> dict[str, object]:
        """Return the snapshot with a further object, ``rates``; null if there is no predecessor."""
        return {**self.now, "rates": None if self.before is None else self._rates()}

    def _rates(self) -> dict[str, object]:
        functions: list[Rates] = []
        instances: list[Rates] = []
        deployments: dict[str, object] = {}
        for each in several(self.now, "deployments"):
            own = {name: rate for name, _, rate in self.functions(each)}
            running = {text(one, "id"): rate for one, rate in self.instances(each)}
            functions += own.values()
            instances += running.values()
            deployments[text(each, "name")] = {
                **_of_calls(own.values()),
                "cpu_share": sum_of(rate.processor for rate in running.values()),
                "functions": {name: _of_calls([rate]) for name, rate in own.items()},
                "instances": {
                    name: {"cpu_share": rate.processor} for name, rate in running.items()
                },
            }
        return {
            "seconds": self.elapsed,
            **_of_calls(functions),
            "cpu_share": sum_of(rate.processor for rate in instances),
            "deployments": deployments,
        }


def _of_calls(found: Iterable[Rates]) -> dict[str, object]:
    found = list(found)
    return {
        "calls_per_second": sum_of(rate.calls for rate in found),
        "failures_per_second": sum_of(rate.failures for rate in found),
    }


def sum_of(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if none is known."""
    known = [each for each in values if each is not None]
    return sum(known) if known else None
