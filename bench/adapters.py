"""Every kind of adapter on examples/harbour.md and on generated documents: add, train, kill, resume, ask, compare.

    python -m bench.adapters WORK [--documents N] [--steps N] [--part N OF] [--compressor] [--further] [--table]

Documents of 200 to 300 words by bench/corpus.py, of which is asked and studied what the embedded base can read (its --read),
by the world's own study material; harbour's is what the base writes. What a person would type is run, a process for each
step. Up to five documents have a library of their own in WORK, and all are trained by one `km train`, for each adapter anew:
that process is killed (SIGKILL) once every document has its checkpoint at half of the steps, and the same command trains to
the end. Then each document is asked its first question, as `km ask` does, and when it has all adapters, `km compare` puts
them side by side. The three study the same material, in as many steps. The compressor that the third begins from is trained
before, once, on 40 other generated documents.

What is done is not done again: the same command goes on from there. --part: only every OF-th library, from the N-th on, so
that several processes can share the work. --compressor: that alone. --further: on the first library of generated documents,
other ways to train them (FURTHER). --table: only print what is done.

Prints Markdown: exact match and F1 with 95% bootstrap intervals over all questions, the p-value of a paired randomisation
test of exact match against `full` (where the text fits; else `gold`), tokens read with those that stand before the question,
memory of keys and values, size on disk, processor seconds of training with everything around it; then `FIGURE name value`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.adapters_work import (
    ADAPTERS,
    FURTHER,
    GROUP,
    PLAIN,
    compressor,
    documents,
    further,
    further_file,
    kept,
    own,
    study,
)
from bench.results import Row, pool

from kmcli.evaluation.metrics import bootstrap, paired_p


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("N", "OF"))
    parser.add_argument("--compressor", action="store_true")
    parser.add_argument("--further", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args(arguments)
    work, settings = given.work.absolute(), (*PLAIN, "--set", f"steps={given.steps}")
    names = documents(work, "adapters", given.documents)
    groups = [["harbour"], *(names[start : start + GROUP] for start in range(0, len(names), GROUP))]
    if given.compressor:
        compressor(work)
    elif given.further:
        for wanted, flags in FURTHER.items():
            further(work, groups[1], wanted, [*flags, *settings, *own(groups[1])])
    elif not given.table:
        for number, group in enumerate(groups):
            if number % given.part[1] == given.part[0]:
                study(work, group, settings)
    show(work, "harbour", groups[0])
    show(work, "generated", names)
    show_further(work, groups[1])
    return 0


def show(work: Path, title: str, names: Sequence[str]) -> None:
    done = {name: found for name in names if (found := kept(work / "compared" / f"{name}.json"))}
    if not done:
        return
    rows: dict[str, Row] = {}
    sizes: dict[str, list[Mapping[str, Any]]] = {}
    memory: dict[str, list[float]] = {}
    for data in done.values():
        current = next(one["name"] for one in data["costs"]["adapters"] if one["key"] == "km")
        named = lambda key, own=current: f"km:{own}" if key == "km" else key  # noqa: E731
        pool(rows, {**data, "answers": {named(key): value for key, value in data["answers"].items()}})
        for one in data["costs"]["adapters"]:
            sizes.setdefault(named(one["key"]), []).append(one)
        for one in data["rows"]:
            if one["fits"]:
                memory.setdefault(named(one["key"]), []).append(one["kv_bytes"])
    tokens = fmean(data["costs"]["text_tokens"] for data in done.values())
    asked = sum(len(data["questions"]) for data in done.values())
    print(f"\n{title}: {len(done)} documents of {tokens:,.0f} tokens, {asked} questions\n")
    whole = {key: row for key, row in rows.items() if row.documents == len(done)}
    against = "full" if "full" in whole else "gold"
    print(f"| | exact match | F1 | p against {against} | tokens read | keys and values | on disk | training, CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    figures = []
    for key, row in whole.items():
        standing = fmean(one["tokens"] for one in sizes.get(key, [{"tokens": 0}]))
        scores = [bootstrap(row.exact), bootstrap(row.f1)]
        cells = [f"{one.mean:.1%} ({one.low:.1%}-{one.high:.1%})" for one in scores]
        cells.append("-" if key == against else f"{paired_p(row.exact, whole[against].exact):.4f}")
        cells.append(f"{fmean(row.read):,.0f}" + (f", of these {standing:.0f} stand there" if standing else ""))
        cells.append(f"{fmean(memory[key]) / 1e6:.2f} MB")
        cells.append(f"{fmean(one['size'] for one in sizes[key]) / 1e6:.1f} MB" if key in sizes else "-")
        spent = training(work, key.removeprefix("km:"), list(done))
        cells.append(f"{spent:,.0f}" if spent else "-")
        print(f"| {key} | {' | '.join(cells)} |")
        figures.append(f"FIGURE adapters_{title}_{key.replace(':', '_')}_em {scores[0].mean:.3f}")
    print(*(f"\n{key}: left out, it fits in {row.documents} of them." for key, row in rows.items() if key not in whole))
    said = {adapter: agreeing(work, done, adapter) for adapter in ADAPTERS}
    print("Asked alone and within the comparison the same answer: " + ", ".join(f"{key} {said[key]}" for key in said))
    print(f"Killed and resumed: {resumed(work, done)}\n\n" + "\n".join(figures), flush=True)


def training(work: Path, adapter: str, names: Sequence[str]) -> float | None:
    """Processor seconds for a document, of the groups that these are in."""
    found = [
        kept(file) for file in sorted((work / "done").glob(f"*-{adapter}.json")) if file.stem.rsplit("-", 1)[0] in names
    ]
    return sum(one["seconds"] for one in found) / sum(len(one["steps"]) for one in found) if found else None


def resumed(work: Path, names: Iterable[str]) -> str:
    found = [
        one
        for adapter in ADAPTERS
        for name in names
        if (group := kept(work / "done" / f"{name}-{adapter}.json"))
        for one in group["resumed"]
    ]
    return f"{sum(found)} of {len(found)} trainings"


def agreeing(work: Path, done: Mapping[str, Any], adapter: str) -> str:
    """Of the first questions, how many `km ask` answered as the comparison did."""
    same = []
    for name, data in done.items():
        current = next(one["key"] for one in data["costs"]["adapters"] if one["name"] == adapter)
        same.append(
            data["answers"][current][0]["answer"]["text"] == kept(work / "asked" / f"{name}-{adapter}.json")["answer"]
        )
    return f"{sum(same)} of {len(same)}"


def show_further(work: Path, group: Sequence[str]) -> None:
    found = {wanted: kept(further_file(work, wanted)) for wanted in FURTHER}
    if not any(found.values()):
        return
    first = [kept(work / "compared" / f"{name}.json") for name in group]
    print(f"\nother trainings of {len(group)} generated documents\n")
    print("| | exact match | F1 | tokens | CPU s |\n|---|---|---|---|---|")
    for adapter in ADAPTERS:
        keys = [next(one for one in data["costs"]["adapters"] if one["name"] == adapter) for data in first]
        rows = {adapter: [data["answers"][one["key"]] for data, one in zip(first, keys, strict=True)]}
        _row(
            f"{adapter}, as above", rows[adapter], fmean(one["tokens"] for one in keys), training(work, adapter, group)
        )
    for wanted, data in found.items():
        if data:
            own = [next(one for one in each["costs"]["adapters"] if one["key"] == "km") for each in data["compared"]]
            judged = [each["answers"]["km"] for each in data["compared"]]
            _row(wanted, judged, fmean(one["tokens"] for one in own), data["seconds"] / len(group))


def _row(title: str, judged: Sequence[Sequence[Mapping[str, Any]]], tokens: float, seconds: float | None) -> None:
    cells = []
    for measure in ("exact_match", "f1"):
        score = bootstrap([one[measure] for each in judged for one in each])
        cells.append(f"{score.mean:.1%} ({score.low:.1%}-{score.high:.1%})")
    print(f"| {title} | {' | '.join(cells)} | {tokens:.0f} | {seconds or 0:,.0f} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
