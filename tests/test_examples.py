"""The example documents are what their README says, and their questions can be answered from them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DOCUMENTS = {  # file: fewest and most words, fewest questions
    "harbour.pdf": (600, 1000, 40),
    "report.md": (600, 1000, 30),
    "handbook.md": (600, 1000, 30),
    "article.md": (600, 1000, 30),
    "almanac.md": (12_000, 20_000, 60),
}
KINDS = {"who", "when", "where", "what", "how many", "how much", "why", "list", "yes-no"}


def collapse(text: str) -> str:
    return " ".join(text.split())


def text_of(path: Path) -> str:
    if path.suffix == ".pdf":
        return collapse("\n".join(page.extract_text() for page in PdfReader(path).pages))
    return collapse(path.read_text(encoding="utf-8"))


def questions_of(document: str) -> list[dict[str, Any]]:
    path = EXAMPLES / f"{Path(document).stem}.questions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_length_and_number_of_questions(document: str) -> None:
    fewest, most, questions = DOCUMENTS[document]
    assert fewest <= len(text_of(EXAMPLES / document).split()) <= most
    assert len(questions_of(document)) >= questions


@pytest.mark.parametrize("document", DOCUMENTS)
def test_fields_of_questions(document: str) -> None:
    questions = questions_of(document)
    for question in questions:
        assert list(question) == ["question", "answers", "kind", "evidence"]
        assert question["question"].endswith("?")
        assert question["kind"] in KINDS
        answers = question["answers"]
        assert answers
        assert all(isinstance(answer, str) and answer == collapse(answer) != "" for answer in answers), answers
        assert len({answer.lower() for answer in answers}) == len(answers), answers
    texts = [question["question"].lower() for question in questions]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_evidence_is_in_the_document_and_holds_the_answer(document: str) -> None:
    text = text_of(EXAMPLES / document)
    for question in questions_of(document):
        evidence = collapse(question["evidence"])
        assert evidence in text
        if question["kind"] == "yes-no":
            assert question["answers"][0] in ("Yes", "No")
        else:
            assert collapse(question["answers"][0]).lower() in evidence.lower()


def test_prose_documents_ask_questions_of_every_kind() -> None:
    for document in ("report.md", "handbook.md", "article.md"):
        assert {question["kind"] for question in questions_of(document)} == KINDS, document


def test_almanac_is_what_the_script_makes() -> None:
    text, questions = script("make_almanac.py")["build"](7)
    assert text == (EXAMPLES / "almanac.md").read_text(encoding="utf-8")
    assert questions == questions_of("almanac.md")


def test_almanac_of_another_seed_is_another_almanac() -> None:
    build = script("make_almanac.py")["build"]
    text, questions = build(8)
    assert text == build(8)[0]
    assert text != (EXAMPLES / "almanac.md").read_text(encoding="utf-8")
    assert all(question["evidence"] in text for question in questions)


def test_almanac_questions_come_from_every_parish() -> None:
    chapters = (EXAMPLES / "almanac.md").read_text(encoding="utf-8").split("\n## ")[1:]
    evidences = [question["evidence"] for question in questions_of("almanac.md")]
    assert [sum(evidence in chapter for evidence in evidences) for chapter in chapters] == [6] * 12


def test_almanac_gives_no_name_twice() -> None:
    maker = script("make_almanac.py")["Maker"](7)
    names = [maker.value(pattern, {}) for pattern in ["{place}", "{name}", "{mineral}", "{breed}"] * 20]
    assert len({name.lower() for name in names}) == 80


def test_harbour_pdf_is_what_the_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("fpdf", reason="fpdf2 makes the PDF")
    build = script("make_pdf.py")["build"]
    source = (EXAMPLES / "harbour.md").read_text(encoding="utf-8")
    data = build(source)
    assert data == build(source)
    (tmp_path / "harbour.pdf").write_bytes(data)
    # Another fpdf2 may write other bytes, but never other words.
    assert text_of(tmp_path / "harbour.pdf") == text_of(EXAMPLES / "harbour.pdf")


def test_harbour_pdf_holds_the_words_of_its_source() -> None:
    source = (EXAMPLES / "harbour.md").read_text(encoding="utf-8").replace("#", "")
    assert text_of(EXAMPLES / "harbour.pdf") == collapse(source)
    assert 2 <= len(PdfReader(EXAMPLES / "harbour.pdf").pages) <= 3
