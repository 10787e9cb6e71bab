"""Many documents from one JSONL file, on this machine or of a dataset on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_cases import Km
from fakehub import COMMIT, FakeHub, closed_port
from hub_cases import cache, point_at
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.ingest import is_many, read_all, records
from kmcli.ingest.limits import Limits
from kmcli.types import Event, Ingested, text_hash
from workflow_cases import entry, finish, km, sentences

__all__ = ["cache", "km"]

DATASET = "datasets/org/harbours"
ADDRESS = f"hf://{DATASET}"


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in values)


def parts(found: Iterable[Ingested | KmError]) -> list[tuple[str, ...]]:
    return [(one.message,) if isinstance(one, KmError) else (one.source, one.suggested_name, one.text) for one in found]


def parsed(*values: object, column: str | None = None, only: str = "") -> list[tuple[str, ...]]:
    return parts(records.read(lines(*values), "/d.jsonl", "d", column, only))


# --- lines


def test_names_and_texts() -> None:
    assert parsed(
        {"name": "Mill ", "title": "The mill", "text": "One.\r\n", "content": "no"},
        {"id": 7, "title": "The\nferry", "content": "Two.", "text": None},
        {"title": "Barn", "document": "Three.", "id": True},
        {"body": "Four."},
    ) == [
        ("/d.jsonl#Mill", "Mill", "One."),
        ("/d.jsonl#7", "The ferry", "Two."),
        (f"/d.jsonl#{text_hash('Three.')[:12]}", "Barn", "Three."),
        (f"/d.jsonl#{text_hash('Four.')[:12]}", "d-4", "Four."),
    ]
    assert parsed({"text": "no", "story": "Yes."}, {"text": "no"}, column="story") == [
        (f"/d.jsonl#{text_hash('Yes.')[:12]}", "d-1", "Yes."),
        ("line 2 of /d.jsonl holds no text.",),
    ]


def test_what_is_no_document_is_said_by_line() -> None:
    data = lines({"text": "a"}, [], {"text": " \n\x00"}, {"other": 1}, {"text": "a"}) + b"\n{\n" + b"[" * 100_000
    said = [part[-1] for part in parts(records.read(data, "/d.jsonl", "d", None))]
    assert said == [
        "a",
        "line 2 of /d.jsonl is no JSON object.",
        "line 3 of /d.jsonl holds no text.",
        "line 4 of /d.jsonl holds no text.",
        "line 5 of /d.jsonl has the same text, as line 1.",
        "line 7 of /d.jsonl is no JSON object.",
        "line 8 of /d.jsonl is no JSON object.",
    ]
    assert parsed({"name": "x", "text": "a"}, {"name": "x", "text": "b"})[1] == (
        "line 2 of /d.jsonl is called x, as line 1.",
    )


def test_one_document_of_a_file() -> None:
    values = [{"name": "x", "text": "a"}, {"name": "yes", "text": "b"}, {"text": ""}]
    assert parsed(*values, only="yes") == [("/d.jsonl#yes", "yes", "b")]
    with pytest.raises(KmError, match=r"holds no document 'yess'\. Did you mean yes\?"):
        parsed(*values, only="yess")


@pytest.mark.parametrize(
    ("values", "column", "said"),
    [
        ({"question": "a", "answer": "b"}, None, "Say which holds the text with --column: it has question, answer."),
        ({"question": "a", "answer": "b"}, "answers", "has no column 'answers'. Did you mean answer?"),
        ({}, "x", "It has none."),
    ],
)
def test_a_column_that_is_not_there(values: dict[str, Any], column: str | None, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(values, column=column)
    assert said in str(caught.value)


def test_files_that_are_no_jsonl(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KmError, match=r"/d.jsonl is no JSONL\."):
        list(records.read(b"\xff\xfe\x00", "/d.jsonl", "d", None))
    monkeypatch.setattr(records, "MOST", 2)
    with pytest.raises(KmError, match="holds 3 documents, and km takes 2 of a file"):
        parsed(*[{"text": str(n)} for n in range(3)])


values = st.dictionaries(st.sampled_from(["text", "name", "id", "title"]), st.text() | st.none() | st.integers())


@settings(max_examples=100)
@given(st.binary() | st.lists(values).map(lambda some: lines(*some)), st.text(max_size=3))
def test_any_bytes(data: bytes, only: str) -> None:
    found: list[Ingested] = []
    with suppress(KmError):
        for one in records.read(data, "/d.jsonl", "d", None, only):
            found += [one] if isinstance(one, Ingested) else []
    assert len({one.source for one in found}) == len(found)
    assert all(one.text.strip() and one.suggested_name.strip() and one.source.encode("utf-8") for one in found)


def test_what_may_hold_many(tmp_path: Path) -> None:
    odd = tmp_path / "a.jsonl#b"
    assert is_many(str(odd))
    odd.write_text("one document")
    assert not is_many(str(odd))
    many = ["x.jsonl", "/a/X.NDJSON", "x.jsonl#name", "hf://datasets/a/b", "hf://x"]
    assert [source for source in [*many, "-", "x.json", "https://a.b/c.jsonl"] if is_many(source)] == many


# --- the verb


def test_a_file_is_added_updated_and_added_again(km: Km, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_bytes(lines({"name": "Mill", "text": "It burnt down in 1871."}, {"text": "Nine minutes."}, {"text": ""}))
    run = km("add", str(file), "--tag", "old")
    assert run.code == 6
    assert run.out == "added  mill    text    5 words\nadded  docs-2  text    2 words\n"
    assert sentences(run.err) == [
        f"km: line 3 of {file} holds no text. It is looked for in: text, content, document, body."
    ]
    assert entry(km, "mill")["tags"] == ["old"]
    file.write_bytes(
        lines({"text": "New, and first."}, {"name": "Mill", "text": "In 1872."}, {"text": "Nine minutes."})
    )
    again = km("add", str(file))
    assert again.code == 0
    assert [line.split()[:2] for line in again.out.splitlines()] == [
        ["added", "docs-1"],
        ["updated", "mill"],
        ["unchanged", "docs-2"],
    ]
    source = entry(km, "mill")["source"]
    assert source == f"{file}#Mill"
    assert km("add", source).out.split()[:2] == ["unchanged", "mill"]  # as doctor would have it
    assert "--name names one document" in km("add", str(file), "--name", "x").err
    assert "--column is for JSONL files" in km("add", str(tmp_path), "--column", "x").err
    assert len(km("ls", "--json").envelope["data"]) == 3


def test_a_jsonl_in_a_folder_is_passed_over(km: Km, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "questions.jsonl").write_bytes(lines({"question": "Who?", "answers": ["Ann"]}))
    (tmp_path / "in" / "mill.txt").write_text("It burnt down.")
    assert km("add", str(tmp_path / "in")).out.split()[:2] == ["added", "mill"]


# --- the hub


FILES = {
    "README.md": b"# Harbours",
    "data/train.jsonl": lines({"name": "Taldrin", "text": "Founded in 1743."}, {"name": "Sennick", "text": "A town."}),
    "data/test.jsonl": lines({"question": "Who?"}),
    "extra/notes.md": b"# Notes\n\nThe lighthouse.",
    "data/all.parquet": b"PAR1",
}


def taken(source: str, column: str | None = None) -> list[tuple[str, ...]]:
    return parts(read_all(source, column=column))


def test_documents_of_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({DATASET: FILES}) as hub:
        point_at(monkeypatch, hub.url)
        town = (f"{ADDRESS}/data/train.jsonl#Sennick", "Sennick", "A town.")
        found = taken(ADDRESS)
        assert found[0][0].startswith(f"{ADDRESS}/data/test.jsonl has no column called text")
        assert found[1:] == [(f"{ADDRESS}/data/train.jsonl#Taldrin", "Taldrin", "Founded in 1743."), town]
        assert taken(f"{ADDRESS}/data") == found
        assert taken(f"{ADDRESS}/data/train.jsonl") == found[1:]
        assert taken(town[0]) == [town]
        assert taken(f"{ADDRESS}/extra/notes.md") == [
            (f"{ADDRESS}/extra/notes.md", "notes", "# Notes\n\nThe lighthouse.")
        ]
        at = f"{ADDRESS}@{COMMIT}/data/train.jsonl"
        assert taken(at)[1][0] == f"{at}#Sennick"
        assert len(hub.gets("data/train.jsonl")) == 1  # the hub's cache keeps it
        events: list[Event] = []
        list(read_all(f"{ADDRESS}/extra/notes.md", events.append))
        assert [(event.done, event.total) for event in events if event.stage == "download"][-1] == (24, 24)


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("hf://org/harbours", UsageError, "hf://org/harbours is no address of a dataset."),
        ("hf://datasets/org", UsageError, "is no address of a dataset."),
        ("hf://datasets/org/other", NotFoundError, "there is no dataset org/other on the hub, or it is private."),
        (f"{ADDRESS}@v9", ResourceError, "datasets/org/harbours has no revision 'v9'."),
        (f"{ADDRESS}/data/trian.jsonl", NotFoundError, "Did you mean data/train.jsonl or"),
        (f"{ADDRESS}/data/all.parquet", KmError, "is a Parquet file, which km does not read. Save it as JSONL"),
        (f"{ADDRESS}/extra", KmError, "/extra holds no JSONL, but .md."),
    ],
)
def test_what_a_dataset_does_not_have(
    monkeypatch: pytest.MonkeyPatch, source: str, kind: type[KmError], said: str
) -> None:
    with FakeHub({DATASET: FILES}) as hub:
        point_at(monkeypatch, hub.url)
        with pytest.raises(KmError) as caught:
            taken(source)
    assert type(caught.value) is kind
    assert said in str(caught.value)


def test_a_file_that_is_too_large_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({DATASET: FILES}) as hub:
        point_at(monkeypatch, hub.url)
        with pytest.raises(KmError, match=r"data/train.jsonl of .* is larger than 0 MB"):
            list(read_all(f"{ADDRESS}/data/train.jsonl", limits=Limits(max_megabytes=0)))
        assert hub.gets("train.jsonl") == []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"refuse": (401, {})}, "does not give datasets/org/harbours to everybody"),
        ({"refuse": (403, {"X-Error-Code": "GatedRepo"})}, "/datasets/org/harbours, then set HF_TOKEN"),
        ({"refuse": (500, {})}, "failed (status 500)"),
        ({"body": b"<html>"}, "does not answer like a model hub"),
    ],
)
def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any], said: str) -> None:
    with FakeHub({DATASET: FILES}, **trouble) as hub:
        point_at(monkeypatch, hub.url)
        with pytest.raises(ResourceError) as caught:
            taken(ADDRESS)
    assert said in str(caught.value)
    assert "embedded" not in str(caught.value)


@pytest.mark.parametrize("forbidden", [True, False])
def test_no_way_to_the_hub(tmp_path: Path, forbidden: bool) -> None:
    where = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}",
        "NO_PROXY": "127.0.0.1",
    }
    code, out, err = finish("add", ADDRESS, **where, **({"HF_HUB_OFFLINE": "1"} if forbidden else {}))
    assert (code, out) == (4, "")
    (sentence,) = sentences(err)
    said = (
        "HF_HUB_OFFLINE forbids to look at the dataset org/harbours" if forbidden else "cannot reach the hub at http://"
    )
    assert said in sentence
    assert sentence.endswith("Download the file you want, and add that.")
