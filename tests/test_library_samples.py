"""Study material: lines that only grow, and what a crash or damage does to them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.errors import KmError
from kmcli.library import Library
from library_material import ingested, sample


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


@settings(max_examples=15)
@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=())), max_size=3), max_size=4), st.binary(max_size=50)
)
def test_samples_come_back_and_a_torn_line_is_repaired(batches: list[list[str]], torn: bytes) -> None:
    torn = torn.replace(b"\n", b"")
    with tempfile.TemporaryDirectory() as folder, Library.open(Path(folder)) as library:
        document = library.add(ingested()).document
        path = library.source_file(document).parent / "samples.jsonl"
        expected = []
        for batch in batches:
            samples = [sample(n, response) for n, response in enumerate(batch)]
            library.append_samples(document, samples)
            expected += samples
            with path.open("ab") as stream:
                stream.write(torn)  # a crash in the middle of the next line
            assert library.samples(document) == expected
        library.append_samples(document, [sample(9)])
        assert library.samples(document) == [*expected, sample(9)]
        assert path.read_bytes().count(b"\n") == len(expected) + 1


def test_samples_of_none_and_dropped(library: Library) -> None:
    document = library.add(ingested()).document
    assert library.samples(document) == []
    library.drop_samples(document)
    library.append_samples(document, iter([sample(1)]))
    library.append_samples(document, [])
    assert library.samples(document) == [sample(1)]
    library.drop_samples(document)
    assert library.samples(document) == []


def test_a_score_that_comes_later_is_part_of_the_sample(library: Library) -> None:
    document = library.add(ingested()).document
    folder = library.source_file(document).parent
    library.append_samples(document, [replace(sample(1), score=5), sample(2), sample(3)])
    before = (folder / "samples.jsonl").read_bytes()
    library.append_scores(document, [replace(sample(1), score=1), replace(sample(2), score=4)])
    with (folder / "scores.jsonl").open("ab") as stream:
        stream.write(b'{"id": "s3", "sco')  # a crash in the middle of a line
    assert [one.score for one in library.samples(document)] == [5, 4, None]
    library.append_scores(document, [replace(sample(3), score=0)])
    assert [one.score for one in library.samples(document)] == [5, 4, 0]
    assert (folder / "samples.jsonl").read_bytes() == before
    assert (folder / "scores.jsonl").read_bytes().count(b"\n") == 3
    library.drop_samples(document)
    library.append_samples(document, [sample(2)])
    assert library.samples(document) == [sample(2)]


def test_samples_of_before_there_were_scores_are_read(library: Library) -> None:
    document = library.add(ingested()).document
    line = {key: value for key, value in asdict(sample(1)).items() if key != "score"}
    (library.source_file(document).parent / "samples.jsonl").write_text(json.dumps(line) + "\n")
    assert library.samples(document) == [sample(1)]


def test_a_long_torn_line_is_cut_at_the_right_place(library: Library) -> None:
    document = library.add(ingested()).document
    library.append_samples(document, [sample(1)])
    with (library.source_file(document).parent / "samples.jsonl").open("ab") as stream:
        stream.write(b"x" * 200_000)
    library.append_samples(document, [sample(2)])
    assert library.samples(document) == [sample(1), sample(2)]


def test_damage_in_the_middle_is_not_passed_over(library: Library) -> None:
    document = library.add(ingested()).document
    library.append_samples(document, [sample(1)])
    with (library.source_file(document).parent / "samples.jsonl").open("ab") as stream:
        stream.write(b'{"id": 1}\n')
    library.append_samples(document, [sample(2)])
    with pytest.raises(KmError, match=r"the study material of heron is damaged in line 2\. km doctor --repair"):
        library.samples(document)
