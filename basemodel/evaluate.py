"""How well a base reads, writes and admits ignorance: lines `FIGURE name value`, each with its number of cases.

    python -m basemodel.evaluate [MODEL] [--documents 40] [--data FOLDER] [--device auto]

MODEL: what km's --model takes (default: the embedded base). All texts are held out: template-world documents with names that
training never draws, authored documents of held-out kinds and numbers, natural rows marked held out, and examples/.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from basemodel.chats import NOT_STATED
from basemodel.material import Material, authored, from_authored, from_world, natural
from basemodel.windows import cut, pieces
from kmcli import bases
from kmcli.chunking import chunk
from kmcli.engines import Chat, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import gold_chunk
from kmcli.evaluation.metrics import bootstrap
from kmcli.evaluation.questions import read_questions
from kmcli.metrics import exact_match, normalise, token_f1
from kmcli.synthesis.parse import pairs
from kmcli.types import silent

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCUMENTS = ("harbour", "report", "handbook", "article")
ANSWER = Sampling(max_tokens=48)


class Evaluation:
    """Asks one base and prints figures."""

    def __init__(self, model: str, device: str) -> None:
        self.base = bases.find(model, silent)
        self.loaded = bases.load(self.base, device)
        self.engine = HfEngine(self.loaded)
        self.prompts = self.base.prompts

    def count(self, text: str) -> int:
        return len(self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def under(self, text: str, question: str) -> Chat:
        return [("user", self.prompts.under_text.format(text=text, question=question))]

    def answers(self, chats: Sequence[Chat]) -> list[str]:
        return [made.text for made in self.engine.generate(chats, ANSWER)]

    def reading(self, name: str, cases: Sequence[tuple[str, str, Sequence[str]]]) -> None:
        """Exact match and F1 of (text, question, answers) with the text in context."""
        fitting = [
            case for case in cases if self.engine.count(self.under(case[0], case[1])) + 48 <= self.engine.context
        ]
        if not fitting:
            print(f"# {name}: none of {len(cases)} cases fits in {self.engine.context} tokens")
            return
        said = self.answers([self.under(text, question) for text, question, _ in fitting])
        exact = bootstrap([exact_match(one, case[2]) for one, case in zip(said, fitting, strict=True)])
        f1 = bootstrap([token_f1(one, case[2]) for one, case in zip(said, fitting, strict=True)])
        print(f"FIGURE {name}_em {exact.mean:.3f}  # n={exact.n} of {len(cases)}, 95% {exact.low:.3f}-{exact.high:.3f}")
        print(f"FIGURE {name}_f1 {f1.mean:.3f}")

    def refusing(self, name: str, materials: Sequence[Material]) -> None:
        """Precision and recall of "the text does not say"."""
        unknown = [(m.text, question) for m in materials for question in m.unknown]
        known = [(m.text, question) for m in materials for question, _ in m.questions]
        said = self.answers([self.under(text, question) for text, question in unknown + known])
        refused = [normalise(one) == normalise(NOT_STATED) for one in said]
        right = sum(refused[: len(unknown)])
        print(f"FIGURE {name}_not_stated_recall {right / max(1, len(unknown)):.3f}  # n={len(unknown)}")
        print(f"FIGURE {name}_not_stated_precision {right / max(1, sum(refused)):.3f}  # n={sum(refused)}")

    def closed_book(self, materials: Sequence[Material]) -> None:
        cases = [(question, answer) for m in materials for question, answer in m.questions]
        said = self.answers([[("user", question)] for question, _ in cases])
        print(f"FIGURE closed_book_em {fmean(exact_match(o, [a]) for o, (_, a) in zip(said, cases, strict=True)):.3f}")
        honest = {normalise(refusal) for refusal in self.prompts.refusals}
        unknown = fmean(normalise(one) in honest for one in said)
        print(f"FIGURE closed_book_not_known {unknown:.3f}  # either refusal, n={len(cases)}")

    def writing(self, materials: Sequence[Material]) -> None:
        """Share of generations that parse into pairs, and of pairs whose answer stands in the text and is confirmed."""
        sampling = Sampling(max_tokens=256, temperature=0.7, top_p=0.95)
        made = self.engine.generate([self.under(m.text, self.prompts.write_qa) for m in materials], sampling)
        written = [pairs(one.text, one.finished) for one in made]
        print(f"FIGURE pairs_parse {fmean(bool(some) for some in written):.3f}  # n={len(materials)} texts")
        drafts = [(m.text, draft) for m, some in zip(materials, written, strict=True) for draft in some]
        again = self.answers([self.under(text, draft.prompt) for text, draft in drafts])
        stands = [normalise(draft.response) in normalise(text) for text, draft in drafts]
        agrees = [bool(exact_match(one, [draft.response])) for one, (_, draft) in zip(again, drafts, strict=True)]
        supported = fmean(a and b for a, b in zip(stands, agrees, strict=True)) if drafts else 0.0
        print(f"FIGURE pairs_supported {supported:.3f}  # stands in the text and is confirmed, n={len(drafts)} pairs")

    def summarising(self, materials: Sequence[Material]) -> None:
        """Share of facts that a summary states, and of its sentences that are true of the template world's text."""
        made = self.engine.generate(
            [self.under(m.text, self.prompts.summarise) for m in materials], Sampling(max_tokens=256)
        )
        stated: list[bool] = []
        true: list[bool] = []
        for one, material in zip(made, materials, strict=True):
            sentences = [piece.strip() for piece in pieces(one.text) if piece.strip()]
            stated += [
                any(subject in sentence and value in sentence for sentence in sentences)
                for subject, value in material.facts
            ]
            true += [is_true(sentence, material) for sentence in sentences]
        print(f"FIGURE summary_states {fmean(stated):.3f}  # n={len(stated)} facts")
        print(f"FIGURE summary_true {fmean(true) if true else 0:.3f}  # n={len(true)} sentences")


def is_true(sentence: str, material: Material) -> bool:
    """Whether a sentence about the template world states a fact of the text and nothing else.

    It has to name a thing and a value of that thing, no value that is another thing's alone, and no name or number that the
    text does not have.
    """
    subjects = {subject for subject, _ in material.facts if subject in sentence}
    values = {value for _, value in material.facts if value in sentence}
    right = {value for subject, value in material.facts if subject in subjects}
    invented = [word for word in re.findall(r"\b(?:[A-Z]\w+|\d[\d,.:]*)", sentence[1:]) if word not in material.text]
    return bool(values) and values <= right and not invented


def examples(evaluation: Evaluation, name: str) -> list[tuple[str, str, Sequence[str]]]:
    """A document's questions with the chunk that holds the evidence."""
    text = (EXAMPLES / f"{name}.md").read_text("utf-8")
    chunks = chunk(text, evaluation.base.chunk_tokens, 0.0, evaluation.count)
    cases: list[tuple[str, str, Sequence[str]]] = []
    for question in read_questions(EXAMPLES / f"{name}.questions.jsonl"):
        gold = gold_chunk(question, chunks)
        if gold:
            cases.append((gold.text, question.question, question.answers))
    return cases


def cases_of(materials: Sequence[Material], extra: int, r: random.Random) -> list[tuple[str, str, Sequence[str]]]:
    """Every question with its text, or with `extra` wrong passages around it."""
    found: list[tuple[str, str, Sequence[str]]] = []
    for material in materials:
        others = [other.text for other in materials if other is not material]
        for question, answer in material.questions:
            passages = [material.text, *r.sample(others, k=min(extra, len(others)))]
            r.shuffle(passages)
            found.append(("\n\n".join(passages), question, [answer, *material.accepted.get(question, ())]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=bases.EMBEDDED)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--data", type=Path, default=None, help="folder with rc.jsonl.xz")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    evaluation = Evaluation(arguments.model, arguments.device)
    r = random.Random(2024)
    world = [from_world(r, r.randint(1, 3), r.randint(3, 6), evaluation=True) for _ in range(arguments.documents)]
    held = [from_authored(document, r, evaluation=True) for document in authored(held_out=True)][: arguments.documents]
    short = [from_world(r, 1, 4, evaluation=True) for _ in range(arguments.documents)]
    print(f"# {evaluation.base.name}, revision {evaluation.base.revision}")
    evaluation.reading("world", cases_of(world, 0, r))
    evaluation.reading("world_five_passages", cases_of(short, 4, r)[:200])
    evaluation.reading("authored", cases_of(held, 0, r))
    parts = [cut(material, 90, r) for material in held]
    evaluation.reading("authored_chunk", cases_of(parts, 0, r))
    if arguments.data:
        rows = [row for row in natural(arguments.data / "rc.jsonl.xz", held_out=True) if len(row.text) < 1500]
        evaluation.reading("natural", cases_of(r.sample(rows, k=min(len(rows), 300)), 0, r)[:1000])
    for name in DOCUMENTS:
        evaluation.reading(f"example_{name}", examples(evaluation, name))
    evaluation.refusing("world", world)
    evaluation.refusing("authored", parts)
    evaluation.closed_book(world)
    evaluation.writing(world)
    evaluation.summarising(world)


if __name__ == "__main__":
    main()
