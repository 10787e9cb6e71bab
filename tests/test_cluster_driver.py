"""What the driver of a cluster does about lost workers, failures and Ctrl-C. Its workers are scripted: no Ray is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_cases import Km
from cluster_cases import write_documents
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.library.parcels import Parcel
from kmcli.types import Document, Event, Recipe
from kmcli.workflows import cluster
from kmcli.workflows.cluster_worker import Ended, Kept, Message, Told, Work
from kmcli.workflows.house import House, open_house
from kmcli.workflows.material import RecipeOptions, Synthesised
from kmcli.workflows.standing import Standing
from workflow_cases import km

__all__ = ["km"]

Worker = Callable[[Work, Sequence[Parcel]], Iterator[Message]]
RECIPE = Recipe(model="embedded", revision="0")


class Lost(Exception):
    """A RayError."""


class Ray:
    """As much of Ray as the driver uses; each batch's worker runs when it is asked for its next message."""

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(self, worker: Worker, **resources: float) -> None:
        self.sent: list[list[str]] = []
        self.cancelled = 0
        self.options_given: dict[str, Any] = {}
        self._worker, self._resources = worker, resources or {"CPU": 2.0}

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def remote(self, function: object) -> Any:
        def options(**given: Any) -> Any:
            self.options_given = given
            return SimpleNamespace(remote=self._send)

        return SimpleNamespace(options=options)

    def _send(self, work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        self.sent.append([one.document.name for one in batch])
        return self._worker(work, batch)

    def wait(self, batches: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return batches[:1], batches[1:]

    def get(self, message: Any) -> Any:
        return message

    def cancel(self, batch: object, force: bool) -> None:
        self.cancelled += 1


def done(document: Document) -> Ended:
    return Ended(document.id, Synthesised(document, 4, 2, 2, 1.0, {}, 0.1, {}), None)


@pytest.fixture
def drive(
    km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Ray, cluster.Report, list[Event]]]]:
    """Runs a scripted cluster over six documents."""
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 6))).code == 0
    events: list[Event] = []

    with open_house({}, events.append) as house:

        def run(worker: Worker, verb: str = "synth", **more: Any) -> tuple[Ray, cluster.Report, list[Event]]:
            ray = Ray(worker, **more)

            @contextmanager
            def connected(address: str) -> Iterator[Ray]:
                yield ray

            monkeypatch.setattr(cluster, "connected", connected)
            found = house.library.documents()
            report = cluster.run(house, verb, found, RECIPE, RecipeOptions(), "auto")
            for document in found:
                with house.library.lock(document, "test"):  # is free again
                    pass
            return ray, report, events

        run.house = house  # type: ignore[attr-defined]
        yield run


def names(report: cluster.Report) -> list[str]:
    return sorted(one.document.name for one in report.finished)


def test_all_of_them(drive: Any) -> None:
    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            assert any(name.startswith("text-") for name in parcel.files)
            yield Told([Standing("synth", document=parcel.document.name, state="writing")])
            yield done(parcel.document)

    ray, report, events = drive(worker)
    assert names(report) == [f"lamp{number:02}" for number in range(1, 7)]
    assert not report.failed
    assert sorted(name for batch in ray.sent for name in batch) == names(report)
    assert ray.options_given["num_gpus"] == 0
    states = [(one.document, one.state) for one in events if isinstance(one, Standing)]
    assert states[:2] == [("lamp01", "writing"), ("lamp01", "done")]


def test_a_document_that_workers_die_of_takes_no_other_with_it(drive: Any) -> None:
    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            if parcel.document.name == "lamp02":
                raise Lost
            yield done(parcel.document)

    ray, report, _ = drive(worker, CPU=1.0)
    assert names(report) == ["lamp01", "lamp03", "lamp04", "lamp05", "lamp06"]
    (failure,) = report.failed
    assert failure.source == "lamp02"
    assert isinstance(failure.error, ResourceError)
    assert failure.error.message == "its worker was lost (Lost)."
    assert sum("lamp02" in batch for batch in ray.sent) == 3
    assert ray.sent.count(["lamp02"]) >= 2  # by itself
    for name in names(report):
        assert sum(name in batch for batch in ray.sent) <= 2


def test_what_a_lost_worker_has_kept_goes_out_again(drive: Any) -> None:
    seen: list[dict[str, bytes]] = []

    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            if parcel.document.name == "lamp01":
                seen.append({name: data for name, data in parcel.files.items() if name.startswith("training/")})
                if len(seen) == 1:
                    half = {"training/run.json": b"{}", "training/checkpoint.safetensors": b"half"}
                    yield Kept(Parcel(parcel.document, None, half, frozenset(half)))
                    raise Lost
                yield Ended(parcel.document.id, done(parcel.document).result, _cleared(parcel.document))
            else:
                yield done(parcel.document)

    def _cleared(document: Document) -> Parcel:
        return Parcel(document, None, {}, frozenset())

    _, report, _ = drive(worker, CPU=6.0)
    assert len(report.finished) == 6
    assert seen == [{}, {"training/run.json": b"{}", "training/checkpoint.safetensors": b"half"}]
    document = next(one for one in drive.house.library.documents() if one.name == "lamp01")
    assert not list(drive.house.library.workspace(document).iterdir())


def test_what_fails_three_times_is_reported(drive: Any) -> None:
    tries: list[str] = []

    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            tries.append(parcel.document.name)
            if parcel.document.name == "lamp03" or tries.count("lamp04") == 1:
                yield Ended(parcel.document.id, KmError(f"number {tries.count(parcel.document.name)}."), None)
            else:
                yield done(parcel.document)

    _, report, events = drive(worker)
    assert [(one.source, one.error.message) for one in report.failed] == [("lamp03", "number 3.")]
    assert names(report) == ["lamp01", "lamp02", "lamp04", "lamp05", "lamp06"]
    assert tries.count("lamp03") == 3
    ended = [one.state for one in events if isinstance(one, Standing) and one.document == "lamp03"]
    assert ended == ["waiting", "waiting", "failed"]


def test_what_is_no_documents_fault(drive: Any) -> None:
    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        error = Lost()
        error.cause = ModuleNotFoundError("No module named 'kmcli'")  # type: ignore[attr-defined]
        raise error
        yield

    _, report, _ = drive(worker)
    assert len(report.failed) == 6
    assert {one.error.message for one in report.failed} == {
        "its worker failed: ModuleNotFoundError: No module named 'kmcli'"
    }


def test_interrupted(drive: Any) -> None:
    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        yield done(batch[0].document)
        raise KeyboardInterrupt

    ray, report, _ = drive(worker, CPU=1.0)
    assert len(report.finished) == 1
    assert report.interrupted.exit_code == 5
    assert str(report.interrupted) == (
        "stopped; nothing that was finished is lost. The same command goes on from there."
    )
    assert ray.cancelled > 0


@pytest.mark.parametrize(
    ("settings", "resources", "gpus"),
    [
        ({}, {"CPU": 4.0, "GPU": 2.0}, 1),
        ({"device": "cpu"}, {"CPU": 4.0, "GPU": 2.0}, 0),
        ({"device": "cuda"}, {"CPU": 4.0}, 1),
        ({"processes": "2"}, {"CPU": 4.0, "GPU": 2.0}, 2),
    ],
)
def test_gpus(
    km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], resources: Any, gpus: int
) -> None:
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    events: list[Event] = []

    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            yield done(parcel.document)

    ray = Ray(worker, **resources)

    @contextmanager
    def connected(address: str) -> Iterator[Ray]:
        yield ray

    monkeypatch.setattr(cluster, "connected", connected)
    with open_house(settings, events.append) as house:
        report = cluster.run(house, "synth", house.library.documents(), RECIPE, RecipeOptions(), "auto")
    assert len(report.finished) == 1
    assert ray.options_given["num_gpus"] == gpus
    assert any(event.warning for event in events) == (gpus > 0 and "GPU" not in resources)


def test_one_that_another_km_is_at(drive: Any) -> None:
    def worker(work: Work, batch: Sequence[Parcel]) -> Iterator[Message]:
        for parcel in batch:
            yield done(parcel.document)

    house: House = drive.house
    first = house.library.documents()[0]
    with open_house({}, print) as other, other.library.lock(first, "train"):
        fleet = cluster._Fleet(house, Ray(worker), _work(house), None)
        report = fleet.run(house.library.documents())
    assert [one.source for one in report.failed] == ["lamp01"]
    assert len(report.finished) == 5


def _work(house: House) -> Work:
    return Work("synth", RECIPE, RecipeOptions(), house.settings, False, False, {}, 1.0, "0")


def test_init_is_refused(drive: Any) -> None:
    with pytest.raises(UsageError, match="--init needs the library"):
        cluster.run(drive.house, "train", [], Recipe(model="m", revision="0", init="library"), RecipeOptions(), "auto")
