"""How long `km ask` takes from a new process to the last token, and whether its engines answer alike.

    python bench/ask.py [--home FOLDER] [--rounds N]

--home: a library with the trained document `harbour` (examples/harbour.pdf); left out: one is made, its module trained
for a minute, because time does not depend on what a module knows. The programs that are compared take turns, so that
what else the machine does meets them all alike; ratios are medians over the rounds. Prints lines `FIGURE name value`;
those that end in `_cpu` are processor time, which a busy machine changes less than the clock.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from kmcli import bases
from kmcli.engines import Engine, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.engines.llamacpp import LlamaCppEngine
from kmcli.evaluation.methods import fit
from kmcli.evaluation.questions import read_questions
from kmcli.export import export_gguf, export_lora
from kmcli.types import Event, KnowledgeModule, Method, Quant, silent
from kmcli.workflows.house import House, open_house

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTION = "Which river flows through Taldrin?"
QUICK = ("--set", "generations=4", "--set", "steps=60")
GREEDY = Sampling(max_tokens=128)

BARE = """
import sys
from llama_cpp import Llama
base, module, question = sys.argv[1:]
model = Llama(base, lora_path=module, n_ctx=640, n_threads=1, n_threads_batch=1, verbose=False)
messages = [{"role": "user", "content": question}]
for part in model.create_chat_completion(messages, max_tokens=128, temperature=0.0, repeat_penalty=1.0, stream=True):
    print(part["choices"][0]["delta"].get("content", ""), end="", flush=True)
"""
PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, module, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), module).eval()
messages = [{"role": "user", "content": question}]
read = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**read, max_new_tokens=128, do_sample=False)
print(tokenizer.decode(written[0, read["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """seconds: from the start to the last piece of the answer. whole: to the end of the process. cpu: of a processor."""

    answer: str
    seconds: float
    whole: float
    cpu: float


def timed(command: list[str], home: Path) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = last = time.perf_counter()
    text = b""
    environment = {**os.environ, "KM_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), 4096):
            text += piece
            if piece.strip():
                last = time.perf_counter()
    whole = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command[:3])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(text.decode().strip(), last - began, whole, cpu)


def make_library(home: Path) -> None:
    km = [sys.executable, "-m", "kmcli"]
    for words in (["add", str(EXAMPLES / "harbour.pdf")], ["train", "harbour", *QUICK]):
        subprocess.run([*km, *words], env={**os.environ, "KM_HOME": str(home)}, stdout=sys.stderr, check=True)


def speed(home: Path, base: bases.Base, module: KnowledgeModule, rounds: int) -> None:
    cache = home / "cache" / "gguf"
    km = [sys.executable, "-m", "kmcli", "ask", "harbour", QUESTION]
    timed([*km, "--engine", "llamacpp"], home)  # makes the files
    own = home / "cache" / "documents" / module.document_id
    files = [str(cache / f"{base.revision}.gguf"), str(own / f"{module.id}.gguf")]
    prompt = base.prompts.ask.format(question=QUESTION)
    programs = {
        "km": km,
        "bare": [sys.executable, "-c", BARE, *files, prompt],
        "peft": [sys.executable, "-c", PEFT, str(base.path), str(module.path), prompt],
    }
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            runs[name].append(timed(command, home))
    print("| program | to the last token | whole | processor | answer |\n|---|---|---|---|---|")
    for name, many in runs.items():
        numbers = [median(getattr(run, what) for run in many) for what in ("seconds", "whole", "cpu")]
        print(f"| {name} | {' | '.join(f'{number:.3f} s' for number in numbers)} | {many[0].answer} |")
    for what, suffix in (("seconds", ""), ("cpu", "_cpu")):

        def ratio(over: str, under: str, what: str = what) -> float:
            pairs = zip(runs[over], runs[under], strict=True)
            return median(getattr(a, what) / getattr(b, what) for a, b in pairs)

        print(f"FIGURE ask_seconds{suffix} {median(getattr(run, what) for run in runs['km']):.3f}")
        print(f"FIGURE ask_vs_bare_llamacpp{suffix} {ratio('km', 'bare'):.2f}")
        print(f"FIGURE ask_vs_peft{suffix} {ratio('peft', 'km'):.1f}")


def agreement(house: House, base: bases.Base, module: KnowledgeModule, folder: Path) -> None:
    """The share of the examples' questions on which llama.cpp's greedy answer is transformers'."""
    from kmcli.adapters import lora
    from kmcli.retrieval import Index

    questions = [one.question for one in read_questions(EXAMPLES / "harbour.questions.jsonl")]
    loaded = bases.load(base, "cpu")
    plain = HfEngine(loaded)
    count = plain.loaded.tokenizer
    document = house.library.find("harbour")
    passages = house.passages(document, base, lambda text: len(count(text, add_special_tokens=False)["input_ids"]))

    def answers(engine: Engine, method: Method) -> list[str]:
        chats = []
        with Index(document.name, passages) as index:
            for question in questions:
                found = index.search(question, base.passages) if method == "rag" else []
                fitted = fit(method, engine, question, base.prompts, GREEDY, passages=found)
                assert fitted is not None
                chats.append(fitted[0])
        return [made.text for made in engine.generate(chats, GREEDY)]

    expected = {method: answers(plain, method) for method in ("bare", "rag")}
    expected["km"] = answers(HfEngine(loaded, lora.load(loaded, module.path)), "km")
    export_lora(base, module.path, folder / "km.gguf")
    quants: tuple[Quant, ...] = ("F16", "Q8_0")
    for quant in quants:
        file = folder / f"{quant}.gguf"
        export_gguf(base, None, file, quant, {}, silent)
        for method, wanted in expected.items():
            adapters = [(folder / "km.gguf", 1.0)] if method == "km" else []
            began = time.process_time()
            engine = LlamaCppEngine(file, "", base.context, "cpu", adapters=adapters)
            found = answers(engine, method)
            seconds = (time.process_time() - began) / len(found)
            engine.close()
            same = sum(a == b for a, b in zip(found, wanted, strict=True)) / len(found)
            print(f"{quant} {method}: {same:.1%} of {len(found)} answers as with transformers, {seconds:.4f} s each")
            print(f"FIGURE equal_answers_{method}_{quant.lower()} {same:.3f}")


def tokens(house: House, base: bases.Base) -> None:
    """What a question makes the base read, by each method; rag reads the passages that the base reads well at once."""
    from kmcli.chunking import join_pages
    from kmcli.evaluation.methods import build_chat
    from kmcli.retrieval import Index

    questions = [one.question for one in read_questions(EXAMPLES / "harbour.questions.jsonl")]
    with opened(base) as engine:
        document = house.library.find("harbour")
        passages = house.passages(document, base, engine.count_text)
        text = join_pages(house.library.text(document))
        read: dict[Method, list[int]] = {"km": [], "rag": [], "full": []}
        with Index(document.name, passages) as index:
            for question in questions:
                found = index.search(question, base.passages)
                for method, many in read.items():
                    shown = found if method == "rag" else []
                    chat = build_chat(method, question, base.prompts, text=text, passages=shown)
                    many.append(engine.count(chat))
    means = {method: mean(many) for method, many in read.items()}
    print(", ".join(f"{method} reads {number:.0f} tokens a question" for method, number in means.items()))
    print(f"FIGURE ask_tokens_vs_rag {means['rag'] / means['km']:.1f}")
    print(f"FIGURE ask_tokens_vs_full {means['full'] / means['km']:.1f}")


@contextmanager
def opened(base: bases.Base) -> Iterator[LlamaCppEngine]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.gguf"
        export_gguf(base, None, file, "F16", {}, silent)
        engine = LlamaCppEngine(file, "", base.context, "cpu")
        yield engine
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = (given.home or Path(scratch) / "home").absolute()
        if not given.home:
            make_library(home)
        os.environ["KM_HOME"] = str(home)

        def report(event: Event) -> None:
            print(event.message, file=sys.stderr)

        with open_house({}, report) as house:
            module = house.library.module(house.library.find("harbour"))
            if module is None:
                raise SystemExit("harbour has no Knowledge Module there")
            base = bases.find(module.recipe.model, report)
            speed(home, base, module, given.rounds)
            tokens(house, base)
            agreement(house, base, module, Path(scratch))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
