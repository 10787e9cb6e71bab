"""The same question to many Knowledge Modules side by side: every row of a batch answers with its own adapter."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from kmcli.adapters import read, size_of
from kmcli.adapters.stack import Adapter, Stack
from kmcli.bases import Loaded
from kmcli.engines import Generation, Sampling
from kmcli.engines.slots import Slots
from kmcli.errors import KmError

ROWS = 64
"""Answers written together: more of them are no faster on a processor."""

MEMORY = 1 << 30
"""Bytes that the adapters and the cache of a batch may take; one row is written with whatever it takes."""


Answered = tuple[int, Generation | KmError]
"""The place of an adapter among those that are asked, and what came of it."""


def answers(
    loaded: Loaded, folders: Sequence[Path], prompt: list[int], sampling: Sampling, rows: int = ROWS
) -> Iterator[Answered]:
    """What each adapter answers to one prompt, greedily: as they end, in no order.

    An adapter is read when a row becomes free for it, and its memory is the row's: so many as there are rows are held.
    One that cannot be used yields the KmError that says why. Raises ResourceError where the base cannot be batched.
    """
    largest = max(1, *map(size_of, folders)) if folders else 1
    rows = max(1, min(rows, len(folders), MEMORY // (2 * largest)))  # twice: as read, and in its row
    batch = _Batch(loaded, prompt, sampling.max_tokens, rows)
    waiting = deque(enumerate(folders))
    while waiting or batch.places:
        if waiting and len(batch.places) <= batch.rows // 2:  # a pass for one alone would cost as much as for many
            yield from batch.fill(waiting)
        if batch.places:
            yield from batch.write()


class _Batch:
    """places: of the rows, among all adapters. written: the tokens of each."""

    def __init__(self, loaded: Loaded, prompt: list[int], most: int, rows: int) -> None:
        self.loaded, self.prompt, self.most = loaded, prompt, most
        self.need = len(prompt) + most
        self.places: list[int] = []
        self.written: list[list[int]] = []
        self.logits = torch.empty(0)
        self.stack = Stack(loaded.model, rows)
        self.slots = Slots(loaded.model, loaded.device, self.stack.on)
        self.rows = max(1, min(rows, MEMORY // (self.need * self.slots.bytes_per_token)))

    @torch.inference_mode()
    def fill(self, waiting: deque[tuple[int, Path]]) -> list[Answered]:
        """Take in as many adapters as there is room for; those that cannot be used."""
        joining: list[int] = []
        adapters: list[Adapter] = []
        failed: list[Answered] = []
        start = len(self.places)
        while waiting and start + len(joining) < self.rows:
            which, folder = waiting.popleft()
            try:
                adapter = read(folder, self.loaded.device)
                if adapter.tokens + self.need > self.loaded.base.context:
                    raise _no_room(folder, self.loaded)
                self.stack.put(start + len(joining), adapter)
                joining.append(which)
                adapters.append(adapter)
            except KmError as error:
                failed.append((which, error))
        if joining:
            befores = [self.stack.before(start + place, adapter) for place, adapter in enumerate(adapters)]
            logits = self.slots.join([self.prompt] * len(joining), [self.need] * len(joining), befores)
            self.logits = torch.cat([self.logits, logits]) if start else logits
            self.places += joining
            self.written += [[] for _ in joining]
        return failed

    @torch.inference_mode()
    def write(self) -> list[Answered]:
        """A token of each row; those that have ended leave."""
        tokens = self.logits.argmax(-1)
        stay = list(range(len(self.places)))
        ended: list[Answered] = []
        for row, token in reversed(list(enumerate(tokens.tolist()))):
            finished = token in self.loaded.end_ids
            if not finished:
                self.written[row].append(token)
            if finished or len(self.written[row]) == self.most:
                ended.append((self.places[row], self._generation(self.written[row], finished)))
                self._leave(row)
                stay[row] = stay[-1]
                stay.pop()
        if stay:
            self.logits = self.slots.write(tokens[stay])
        return ended

    def _leave(self, row: int) -> None:
        last = len(self.places) - 1
        self.slots.leave(row)
        if row != last:
            self.stack.move(last, row)
        self.places[row], self.written[row] = self.places[last], self.written[last]
        self.places.pop()
        self.written.pop()

    def _generation(self, ids: list[int], finished: bool) -> Generation:
        decode = self.loaded.tokenizer.decode
        text = str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return Generation(text.strip(), len(self.prompt), len(ids), finished)


def _no_room(folder: Path, loaded: Loaded) -> KmError:
    return KmError(
        f"the Knowledge Module in {folder} leaves no room for the question in the {loaded.base.context:,} tokens that "
        f"{loaded.base.name} reads at once.",
        "Ask a shorter one.",
    )
