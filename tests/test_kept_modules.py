"""A document's modules of several kinds of adapter: which answers, which are kept beside it, and both in a comparison."""

# ruff: noqa: F811 (imported fixtures)

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli_cases import Km
from each_cases import add, make_adapter, make_base
from kmcli import adapters, config
from kmcli.adapters import cartridge
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.types import AdapterName, Document, KnowledgeModule, Recipe
from library_material import ingested
from training_cases import one_thread  # noqa: F401
from workflow_cases import km  # noqa: F401


@pytest.fixture
def library(km_home: Path) -> Iterator[Library]:
    with Library.open(km_home) as opened:
        yield opened


@pytest.fixture
def document(library: Library) -> Document:
    return library.add(ingested()).document


def commit(library: Library, document: Document, adapter: AdapterName, seed: int = 0) -> KnowledgeModule:
    folder = library.staging(document)
    (folder / "adapter_model.safetensors").write_bytes(f"{adapter} {seed}".encode())
    return library.commit_module(document, folder, Recipe(adapter=adapter, seed=seed), {"total_seconds": seed})


def ids(modules: list[KnowledgeModule]) -> list[str]:
    return [module.id for module in modules]


# --- in the library -----------------------------------------------------------------------------------------------


def test_another_kind_keeps_the_one_before_and_the_same_kind_replaces_it(library: Library, document: Document) -> None:
    lora = commit(library, document, "lora")
    assert library.kept_modules(document) == []
    prefix = commit(library, document, "cartridge")
    assert library.module(document) == prefix
    assert library.kept_modules(document) == [lora]
    assert (lora.path / "adapter_model.safetensors").read_bytes() == b"lora 0"
    newer = commit(library, document, "cartridge", 1)
    assert library.kept_modules(document) == [lora]
    assert not prefix.path.exists()
    last = commit(library, document, "lora", 2)
    assert library.module(document) == last
    assert library.kept_modules(document) == [newer]
    assert not lora.path.exists()
    assert library.check() == []


def test_a_module_of_another_text_takes_none_of_this_one_away(library: Library, document: Document) -> None:
    """As an import does whose folder says that it was trained on another text."""
    prefix = commit(library, document, "cartridge")
    commit(library, document, "lora", seed=1)
    foreign = commit(library, replace(document, text_sha256="f" * 64), "lora", seed=2)
    assert library.state(document) == "stale"
    assert ids(library.kept_modules(document)) == [prefix.id]
    assert prefix.path.is_dir()
    own = commit(library, document, "compressed")  # and of the foreign one nothing is kept
    assert ids(library.kept_modules(document)) == [prefix.id]
    assert not foreign.path.exists()
    assert library.module(document) == own


def test_a_kept_one_is_taken_up(library: Library, document: Document) -> None:
    lora, prefix = commit(library, document, "lora", 3), commit(library, document, "cartridge", 4)
    library.take_up(document, lora)
    assert library.module(document) == lora
    assert library.kept_modules(document) == [prefix]
    assert library.state(document) == "fresh"
    with pytest.raises(ValueError, match="is not kept"):
        library.take_up(document, lora)
    assert library.module(document) == lora


def test_of_another_text_none_is_kept(library: Library, document: Document) -> None:
    lora = commit(library, document, "lora")
    prefix = commit(library, document, "cartridge")
    changed = library.add(ingested("The heron flies.")).document
    assert library.kept_modules(changed) == []
    assert lora.path.exists()
    newer = commit(library, changed, "lora")
    assert library.module(changed) == newer
    assert library.kept_modules(changed) == []
    assert not lora.path.exists()
    assert not prefix.path.exists()
    assert library.check() == []


def test_removing_takes_all_of_them(library: Library, document: Document) -> None:
    modules = [commit(library, document, "lora"), commit(library, document, "cartridge")]
    library.remove(document.name)
    assert not any(module.path.exists() for module in modules)
    assert library.check() == []
    again = library.add(ingested()).document
    assert library.kept_modules(again) == []


def test_damage_of_a_kept_one_is_found_and_mended(library: Library, document: Document) -> None:
    lora = commit(library, document, "lora")
    own = commit(library, document, "cartridge")
    (lora.path / "recipe.json").write_text("{}")
    (found,) = library.check(repair=True)
    assert found.message == "recipe.json of the kept lora of heron is missing or has been changed."
    assert library.check() == []
    (lora.path / "adapter_model.safetensors").unlink()
    found, orphan = library.check(repair=True)
    assert orphan.message == f"{lora.path} belongs to no document."
    assert found.message == "the kept lora of heron has lost its weights."
    assert library.kept_modules(document) == []
    assert library.module(document) == own


# --- side by side -------------------------------------------------------------------------------------------------

TEXT = "The mill was built by Ann in 1871. It burnt down when Bo kept it. Ann built it again within a year."
ASKED = ("Who built the mill?", "When was the mill built?", "Who kept it when it burnt down?")
GREEDY = Sampling(max_tokens=64)


@pytest.fixture
def base(tmp_path: Path) -> Loaded:
    return make_base(tmp_path / "base")


@pytest.fixture
def modules(km_home: Path, base: Loaded) -> dict[str, KnowledgeModule]:
    """Of the document mill: a LoRA, and a cartridge, which was trained last."""
    document = add("mill", TEXT)
    recipe = Recipe(model=base.base.name, revision=base.base.revision, rank=3, alpha=4)
    prefix = replace(recipe, adapter="cartridge", cartridge_tokens=8, cartridge_start="random")
    with Library.open(config.home()) as library:
        lora = library.commit_module(
            document, make_adapter(base, library.staging(document), 1), recipe, {"total_seconds": 40.0}
        )
        folder = library.staging(document)
        cartridge.save(cartridge.build(base, prefix), folder)
        own = library.commit_module(document, folder, prefix, {"total_seconds": 90.0})
    return {"km": own, "km:lora": lora}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(json.dumps({"question": one, "answer": "Ann"}) for one in ASKED))
    return file


def test_each_row_answers_by_its_own_module(
    km: Km, base: Loaded, modules: dict[str, KnowledgeModule], questions: Path, tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    run = km(
        *("compare", "mill", "--questions", str(questions), "--methods", "bare,km", "--json", "--report", str(page))
    )
    assert run.code == 0, run.err
    data = run.envelope["data"]
    rows = {row["key"]: row for row in data["rows"]}
    assert list(rows) == ["bare", "km", "km:lora"]
    assert [row["adapter"] for row in rows.values()] == [None, None, "lora"]
    chats = [[("user", base.base.prompts.ask.format(question=one))] for one in ASKED]
    said = {"bare": [one.text for one in HfEngine(base).generate(chats, GREEDY)]}
    for key, module in modules.items():
        carrier = adapters.load(base, module.path)
        said[key] = [one.text for one in HfEngine(base, carrier).generate(chats, GREEDY)]
        carrier.unload()
    assert len({tuple(some) for some in said.values()}) == 3
    assert {key: [one["answer"]["text"] for one in some] for key, some in data["answers"].items()} == said
    size = {key: (module.path / "adapter_model.safetensors").stat().st_size for key, module in modules.items()}
    assert data["costs"]["adapters"] == [
        {"key": "km", "name": "cartridge", "tokens": 8, "size": size["km"], "training_seconds": 90.0},
        {"key": "km:lora", "name": "lora", "tokens": 0, "size": size["km:lora"], "training_seconds": 40.0},
    ]
    assert data["costs"]["adapter_bytes"] == size["km"]
    per_token = data["costs"]["text_kv_bytes"] / data["costs"]["text_tokens"]
    for key, standing in (("km", 8), ("km:lora", 0), ("bare", 0)):
        tokens = rows[key]["prompt_tokens"] + rows[key]["output_tokens"] + standing
        assert rows[key]["kv_bytes"] == pytest.approx(tokens * per_token, abs=per_token)
    assert rows["km"]["p_km"] is None
    assert rows["km:lora"]["p_km"] is not None
    cells = Cells()
    cells.feed(page.read_text("utf-8"))
    start = cells.found.index("Trained in")
    assert [cells.found[start + place] for place in (1, 2, 5, 7, 8, 9, 12, 14)] == [
        *("cartridge", "km", "8", "90 s", "lora", "km:lora", "0", "40 s")
    ]


class Cells(HTMLParser):
    """The text of a page's table cells, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "th"):
            self.found.append("")
        self._inside = tag in ("td", "th") or (self._inside and tag not in ("tr", "p"))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def test_what_a_terminal_shows(km: Km, modules: dict[str, KnowledgeModule], questions: Path) -> None:
    run = km("compare", "mill", "--questions", str(questions), "--methods", "km")
    assert run.code == 0, run.err
    lines = [line.split() for line in run.out.splitlines()]
    place = lines.index(["ADAPTER", "ROW", "EXACT", "BEFORE", "ON", "DISK", "TRAINED", "IN"])
    assert lines[place + 1][:2] == ["cartridge", "km"]
    assert lines[place + 2][:2] == ["lora", "km:lora"]
    assert [line[4] for line in lines[place + 1 : place + 3]] == ["8", "0"]
    assert [line[-2:] for line in lines[place + 1 : place + 3]] == [["30", "s"], ["40", "s"]]
    shown = km("show", "mill", "--json").envelope["data"]
    assert shown["module"]["id"] == modules["km"].id
    assert [one["id"] for one in shown["kept"]] == [modules["km:lora"].id]
    assert "beside it" in km("show", "mill").out


def test_methods_without_the_module_alone_have_no_other_rows(
    km: Km, modules: dict[str, KnowledgeModule], questions: Path
) -> None:
    run = km("compare", "mill", "--questions", str(questions), "--methods", "bare,km+rag", "--json")
    assert run.code == 0, run.err
    assert [row["key"] for row in run.envelope["data"]["rows"]] == ["bare", "km+rag@5"]
    assert run.envelope["data"]["costs"]["adapters"] == []


def test_one_of_another_base_is_left_out(
    km: Km, base: Loaded, modules: dict[str, KnowledgeModule], questions: Path
) -> None:
    with Library.open(config.home()) as library:
        recipe = replace(modules["km"].recipe, adapter="lora", revision="another")
        document = library.find("mill")
        library.commit_module(document, make_adapter(base, library.staging(document), 2), recipe, {})
        library.take_up(document, library.kept_modules(document)[0])
    run = km("compare", "mill", "--questions", str(questions), "--methods", "km", "--json")
    assert run.code == 0, run.err
    assert [row["key"] for row in run.envelope["data"]["rows"]] == ["km"]
    assert "the lora of mill is of another base, and is left out." in run.err


def test_training_takes_up_what_was_trained_before(km: Km, base: Loaded, tmp_path: Path) -> None:
    (tmp_path / "mill.txt").write_text(TEXT)
    assert km("add", str(tmp_path / "mill.txt")).code == 0
    words = ("train", "mill", "--model", str(base.base.path), "--objective", "lm", "--no-exam", "--set", "steps=2")
    words = (*words, "--set", "chunk_tokens=32", "--set", "generations=2")

    def module() -> KnowledgeModule:
        with Library.open(config.home()) as library:
            found = library.module(library.find("mill"))
        assert found is not None
        return found

    assert km(*words).code == 0
    lora = module()
    assert km(*words, "--adapter", "cartridge", "--tokens", "8").code == 0
    assert module().recipe.adapter == "cartridge"
    run = km(*words, "--adapter", "lora")
    assert run.code == 0, run.err
    assert module() == lora
    assert "mill answers by its lora again, which was trained before" in run.err
    other = km(*words, "--adapter", "lora", "--set", "rank=4")
    assert other.code == 0, other.err
    assert module().id != lora.id


def test_a_module_of_a_newer_km_is_named(library: Library, document: Document) -> None:
    lora = commit(library, document, "lora")
    commit(library, document, "cartridge")
    library._database.rows("UPDATE kept SET recipe = ? WHERE id = ?", '{"unheard": 1}', lora.id)
    with pytest.raises(KmError, match="was trained by a newer km"):
        library.kept_modules(document)
