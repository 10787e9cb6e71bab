"""Every method of answering on the documents of bench/corpus.py.

    python -m bench.results CORPUS HOME [--with METHOD=EXTRACTOR ...] [--methods LIST] [--k LIST] [--retriever LIST]
                            [--documents N] [--train "WORDS"] [--material]

HOME is a library for this alone. What a person would type is run: `km add`, `km train`, which trains eight documents side by
side, and for each document what `km compare --questions` does. What is done is not done again: the trainings are the
library's, and the comparisons are kept in HOME/results, a file for each document and set of methods.
--documents: only the first N. --train: further words for `km train`, such as "--preset quick". --material: the corpus's own
study material is imported and studied (`--set tasks=import`) instead of what the base would write, which shows what a better
writer would bring.

Methods with an extractor are compared with the one that --with names for each, which was trained on other documents:

    python -m bench.corpus OTHERS --documents 30 --seed others      (added and trained in HOME with the tag `others`)
    cat OTHERS/questions.jsonl OTHERS/further.jsonl > all.jsonl
    KM_HOME=HOME km extractor train reader --docs @others --questions all.jsonl
    python -m bench.results CORPUS HOME --with km+ke=reader

Prints a Markdown table: exact match and F1 with 95% bootstrap intervals over all questions, the p-value of a paired
randomisation test of exact match against `km`, tokens read and written, seconds a question; then the pairs of rows that an
extractor or a module sets apart (PAIRS), exact match by kind of question, and `FIGURE name value` lines, among them the
share of the gap between the bare base and the gold passage that the KM closes. A row that does not fit in the base's context
in every document is left out, and that is said.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import kmcli
from kmcli.api import Km
from kmcli.evaluation.comparison import Comparison
from kmcli.evaluation.metrics import bootstrap, gap_closed, paired_p

METHODS = "bare,km,rag,km+rag,full,gold"
PAIRS = (("rag+km+ke", "rag+ke"), ("km+rag", "rag"), ("rag+ke", "rag"))
"""Compared where they read alike; every row is compared with km, and km+ke with each that reads passages."""
TAG = "corpus"
PARTLY = 6


@dataclass
class Row:
    """Of one way of answering, a value a question."""

    exact: list[float]
    f1: list[float]
    read: list[int]
    wrote: list[int]
    seconds: list[float]
    kinds: list[str]
    documents: int = 1

    def add(self, other: Row) -> None:
        self.exact += other.exact
        self.f1 += other.f1
        self.read += other.read
        self.wrote += other.wrote
        self.seconds += other.seconds
        self.kinds += other.kinds
        self.documents += other.documents


@dataclass(frozen=True)
class Asked:
    """What one `km compare` is told. extractor: the id of what `km` answers with."""

    km: Km
    methods: Sequence[str]
    retrievers: Sequence[str]
    ks: Sequence[int]
    extractor: str = ""


def run(home: Path, *words: str) -> None:
    """A `km` command; its progress goes where ours goes."""
    print(f"km {shlex.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "kmcli", *words], env={**os.environ, "KM_HOME": str(home)})
    if done.returncode not in (0, PARTLY):
        raise SystemExit(f"km {words[0]} ended with {done.returncode}: the same command goes on from here")


def compared(home: Path, corpus: Path, name: str, module: str, asked: Asked) -> dict[str, Row]:
    """What `km compare` finds on a document by the module of this id, from the file where it was asked before: a row a way
    of answering."""
    questions = corpus / "questions" / f"{name}.jsonl"
    # another module is compared anew, and so is another extractor
    about = [asked.methods, asked.retrievers, asked.ks, questions.read_text("utf-8"), module, asked.extractor]
    file = home / "results" / f"{name}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}.json"
    if not file.exists():
        print(f"km compare {name} --methods {','.join(asked.methods)}", file=sys.stderr, flush=True)
        found = asked.km.compare(name, questions, methods=asked.methods, retrievers=asked.retrievers, ks=asked.ks)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({key: asdict(row) for key, row in rows_of(found).items()}), "utf-8")
        temporary.replace(file)
    return {key: Row(**row) for key, row in json.loads(file.read_text("utf-8")).items()}


def rows_of(found: Comparison) -> dict[str, Row]:
    kinds = [question.kind for question in found.questions]
    return {
        key: Row(
            [one.exact_match for one in judged],
            [one.f1 for one in judged],
            [one.answer.prompt_tokens for one in judged],
            [one.answer.output_tokens for one in judged],
            [one.answer.seconds for one in judged],
            kinds,
        )
        for key, judged in found.answers.items()
    }


def show(rows: Mapping[str, Row], documents: int) -> None:
    whole = {key: row for key, row in rows.items() if row.documents == documents}
    asked = len(next(iter(whole.values())).exact)
    print(f"{documents} documents, {asked:,} questions; means, in brackets 95% intervals\n")
    print("| method | exact match | F1 | p against km | tokens read | written | seconds |")
    print("|---|---|---|---|---|---|---|")
    figures = []
    for key, row in whole.items():
        exact, f1 = bootstrap(row.exact), bootstrap(row.f1)
        p = "-" if key == "km" or "km" not in whole else f"{paired_p(row.exact, whole['km'].exact):.4f}"
        scores = " | ".join(f"{one.mean:.1%} ({one.low:.1%}-{one.high:.1%})" for one in (exact, f1))
        costs = f"{fmean(row.read):,.0f} | {fmean(row.wrote):,.1f} | {fmean(row.seconds):.3f}"
        print(f"| {key} | {scores} | {p} | {costs} |")
        figures += [f"FIGURE results_{key}_em {exact.mean:.4f}", f"FIGURE results_{key}_tokens {fmean(row.read):.0f}"]
    for key, row in rows.items():
        if key not in whole:
            print(f"\n{key}: left out, asked in {row.documents} of {documents} documents.")
    for one, other in pairs(whole):
        better = 100 * (fmean(whole[one].exact) - fmean(whole[other].exact))
        print(f"\n{one} against {other}: {better:+.1f} points, p {paired_p(whole[one].exact, whole[other].exact):.4f}")
    kinds = sorted({kind for row in whole.values() for kind in row.kinds})
    print(f"\n| exact match | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for key, row in whole.items():
        cells = []
        for kind in kinds:
            values = [value for value, own in zip(row.exact, row.kinds, strict=True) if own == kind]
            cells.append(f"{fmean(values):.1%} of {len(values):,}")
        print(f"| {key} | {' | '.join(cells)} |")
    for key in ("km", "km+ke"):
        if {key, "bare", "gold"} <= whole.keys():
            closed = gap_closed(*(fmean(whole[one].exact) for one in (key, "bare", "gold")))
            figures.append(f"FIGURE results_{key}_gap_closed {'none' if closed is None else f'{closed:.3f}'}")
    print("\n" + "\n".join(figures), flush=True)


def pairs(keys: Collection[str]) -> list[tuple[str, str]]:
    reading = [key for key in keys if "@" in key]
    ours = [("km+ke", key) for key in reading if key.startswith("rag@")] if "km+ke" in keys else []
    alike = [(key, key.replace(one, other, 1)) for one, other in PAIRS for key in reading if key.startswith(f"{one}@")]
    return ours + [(one, other) for one, other in alike if other in keys]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--with", dest="extractors", action="append", default=[], metavar="METHOD=EXTRACTOR")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--k", default="")
    parser.add_argument("--retriever", default="")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--train", default="")
    parser.add_argument("--material", action="store_true")
    given = parser.parse_args(arguments)
    home = given.home.absolute()
    (home / "results").mkdir(parents=True, exist_ok=True)
    files = sorted((given.corpus / "documents").glob("*.md"))[: given.documents]
    run(home, "add", *map(str, files), "--tag", TAG)
    with kmcli.open(home) as km:
        left = [file.stem for file in files if km.show(file.stem).entry.state != "fresh"]
    own = []
    if given.material:
        own = ["--set", "tasks=import"]
        for name in left:
            run(home, "synth", name, "--import", str(given.corpus / "material" / f"{name}.jsonl"))
    if left:
        run(home, "train", *left, *shlex.split(given.train), *own)
    rows: dict[str, Row] = {}
    untrained = []
    with ExitStack() as until:
        sets = opened(home, given, until)
        for file in files:
            module = sets[0].km.show(file.stem).entry.module
            if module is None:
                untrained.append(file.stem)
                continue
            for one in sets:
                for key, row in compared(home, given.corpus, file.stem, module.id, one).items():
                    if key in rows:
                        rows[key].add(row)
                    else:
                        rows[key] = row
    if untrained:
        print(f"Left out, because their training failed: {', '.join(untrained)}\n")
    show(rows, len(files) - len(untrained))
    return 0


def opened(home: Path, given: argparse.Namespace, until: ExitStack) -> list[Asked]:
    """What is asked of each document: without an extractor, and with each."""
    reading = words(given.retriever), [int(k) for k in words(given.k)]
    sets = [Asked(until.enter_context(kmcli.open(home)), words(given.methods), *reading)]
    for one in given.extractors:
        method, _, name = one.partition("=")
        km = until.enter_context(kmcli.open(home, extractor=name))
        (extractor,) = (found.id for found in km.extractor_ls() if found.name == name)
        sets.append(Asked(km, [method], *reading, extractor))
    return sets


def words(listed: str) -> list[str]:
    return [word for word in listed.split(",") if word]


if __name__ == "__main__":
    raise SystemExit(main())
