"""What /metrics shows, in Prometheus's text format. Nothing in it tells one document from another."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Counts:
    """One server's. Counters take values from any thread."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("km_requests", "Requests answered, by status.", ["status"], registry=registry)
        self.prompt_tokens = Counter("km_prompt_tokens", "Tokens read in prompts.", registry=registry)
        self.written_tokens = Counter("km_completion_tokens", "Tokens written in answers.", registry=registry)
        self.cancelled = Counter("km_cancelled", "Answers that nobody waited for any more.", registry=registry)
        self.steps = Counter("km_steps", "Forward passes that write.", registry=registry)
        self.rows = Counter(
            "km_step_rows", "Answers that those passes wrote on: by steps, the mean.", registry=registry
        )
        self.loads = Counter("km_module_loads", "Knowledge Modules read from disk.", registry=registry)
        self.seconds = Histogram("km_request_seconds", "To an answer's end.", buckets=SECONDS, registry=registry)
        self.first = Histogram("km_first_token_seconds", "To an answer's begin.", buckets=SECONDS, registry=registry)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A gauge that is asked whenever somebody looks."""
        Gauge(name, help, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def total(self, name: str) -> int:
        """A counter's value, over all its labels."""
        samples = [sample for metric in self._registry.collect() for sample in metric.samples]
        return int(sum(sample.value for sample in samples if sample.name == name))
