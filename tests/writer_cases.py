"""A model that writes study material about any text without understanding it, behind two doors: a service, and a vLLM."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

AUTHOR = '''\
import re

QUESTION = "Which word comes after {} {}?"


def author(prompt):
    """The answer to a prompt of synthesis in any style: pairs for a text, an answer to one of their questions."""
    text, _, asked = prompt.rpartition("\\n\\n")
    question = re.match(r"Which word comes after (\\S+) (\\S+)\\?", asked)
    if not text:
        return "I don't know."
    words = re.findall(r"\\w+", text)
    if question:
        return next((c for a, b, c in zip(words, words[1:], words[2:]) if (a, b) == question.groups()), "none")
    places = range(0, len(words) - 2, 7)
    return "\\n".join(f"Q: {QUESTION.format(words[i], words[i + 1])}\\nA: {words[i + 2]}" for i in places)
'''
exec(AUTHOR)  # one text for this process and for the worker, which may import nothing of the tests

WORKER = (
    AUTHOR
    + """
import json, os, signal, sys
from tokenizers import Tokenizer

state = sys.argv[1]
source = sys.stdin
tokenizer = Tokenizer.from_file(json.loads(source.readline())["open"]["model"] + "/tokenizer.json")
with open(state + "/pids", "a") as pids:
    pids.write(f"{os.getpid()}\\n")


def send(**message):
    print(json.dumps(message), flush=True)


send(ready={"vllm": "scripted", "kv_tokens": 7})
for line in source:
    for index, ids in enumerate(json.loads(line)["generate"]["prompts"]):
        told = tokenizer.decode(ids, skip_special_tokens=False)
        prompt = told.split("<|im_start|>user\\n")[-1].split("<|im_end|>")[0]
        if os.path.exists(state + "/answers_left"):
            left = int(open(state + "/answers_left").read())
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            open(state + "/answers_left", "w").write(str(left - 1))
        send(done=index, ids=tokenizer.encode(author(prompt), add_special_tokens=False).ids, finished=True)
"""
)


class FakeVllm:
    """python: an interpreter that runs the scripted model, whatever it is told to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)
        self.python = folder / "python"
        self.python.write_text(f"#!/bin/sh\nexec {sys.executable} {folder}/worker.py {folder}\n")
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def die_after(self, answers: int | None) -> None:
        file = self.folder / "answers_left"
        file.unlink(missing_ok=True)
        if answers is not None:
            file.write_text(str(answers))

    @property
    def started(self) -> list[int]:
        """The process ids of all that were started."""
        file = self.folder / "pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def running(self) -> list[int]:
        return [pid for pid in self.started if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
