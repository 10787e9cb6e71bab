"""The parts under km serve: many adapters in one pass, rows that come and go, text as it grows, requests."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

import cli_cases
import fuzz_server
from kmcli.adapters import lora, stack
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.engines.decoding import Rows
from kmcli.engines.hf import HfEngine
from kmcli.engines.prefixes import Group
from kmcli.engines.slots import Slots
from kmcli.errors import KmError, ResourceError
from kmcli.serving import Entry, Limits, app, wire
from kmcli.serving.counts import Counts
from kmcli.serving.refusals import Refused
from kmcli.serving.service import Service
from kmcli.serving.text import Text
from training_cases import RECIPE, make_tiny, one_thread

__all__ = ["one_thread"]

CPU = torch.device("cpu")


def adapter(folder: Path, seed: int, **changes: Any) -> Path:
    """A random adapter in PEFT's format."""
    loaded = make_tiny()
    recipe = RECIPE.__class__(**{**RECIPE.as_json(), "rank": 4, "alpha": 8, "seed": seed, **changes})
    model = lora.build(loaded, recipe)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    lora.save(model, folder)
    return folder


@contextmanager
def nothing(start: int, stop: int) -> Iterator[None]:
    yield


# --- many adapters in one pass


def test_every_row_has_the_adapter_of_its_own(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2, rank=8), adapter(tmp_path / "c", 3, rank=2)]
    ids = torch.randint(5, 200, (5, 7), generator=torch.Generator().manual_seed(3))
    expected = []
    for row, which in enumerate((0, None, 1, 2, 0)):
        loaded = make_tiny()
        model = loaded.model if which is None else PeftModel.from_pretrained(loaded.model, folders[which]).eval()
        with torch.inference_mode():
            expected.append(model(input_ids=ids[row : row + 1]).logits[0])
    bare = make_tiny().model(input_ids=ids).logits.detach()
    loaded = make_tiny()
    rows = stack.Stack(loaded.model, 6)
    adapters = [stack.read(folder, CPU) for folder in folders]
    assert [one.rank for one in adapters] == [4, 8, 2]
    with torch.inference_mode():
        rows.put(5, adapters[1])  # a row that leaves again
        for row, which in enumerate((0, 0, 1, 2)):
            rows.put(row, adapters[which])
        rows.put(1, None)
        rows.put(5, adapters[0])
        rows.move(5, 4)
        with rows.on(0, 5):
            together = loaded.model(input_ids=ids).logits
        with rows.on(3, 5):
            last = loaded.model(input_ids=ids[3:]).logits
        outside = loaded.model(input_ids=ids).logits
    for row, logits in enumerate(expected):
        torch.testing.assert_close(together[row], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, together[3:], rtol=1e-4, atol=1e-4)
    assert torch.equal(outside, bare)
    assert (together[0] - bare[0]).abs().max() > 0.1


def test_adapters_that_cannot_be_stacked(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", 1)
    config = folder / lora.CONFIG
    settings = json.loads(config.read_text())
    for key, value in {"use_dora": True, "bias": "all", "rank_pattern": {"q_proj": 2}, "peft_type": "IA3"}.items():
        config.write_text(json.dumps({**settings, key: value}))
        with pytest.raises(ResourceError, match=f"more than a plain LoRA \\({key}\\)"):
            stack.read(folder, CPU)
    config.write_text(json.dumps({**settings, "use_rslora": True}))
    scaled = stack.read(folder, CPU).factors
    config.write_text(json.dumps(settings))
    plain = stack.read(folder, CPU).factors
    name = next(iter(plain))
    torch.testing.assert_close(scaled[name][1], 2 * plain[name][1])  # by the root of the rank, which is 4
    (folder / lora.WEIGHTS).write_bytes(b"no weights")
    for broken, said in ((folder, "cannot be loaded"), (tmp_path / "gone", "replaced or removed meanwhile")):
        with pytest.raises(KmError, match=said):
            stack.read(broken, CPU)
    rows = stack.Stack(torch.nn.Linear(2, 2), 1)
    with pytest.raises(ResourceError, match="which the base does not have"):
        rows.put(0, stack.Adapter(1, {"layers.7": (torch.ones(2, 1), torch.ones(1, 2))}))


# --- rows that come and go


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_are_written_as_if_alone(tiny: Loaded, seed: int) -> None:
    chance = random.Random(seed)
    prompts = [[chance.randrange(5, 4000) for _ in range(chance.randrange(1, 90))] for _ in range(12)]
    alone = []
    with torch.inference_mode():
        for prompt in prompts:
            rows = Rows(tiny.model, [prompt], [Group(0, (0,))], 12, tiny.device)
            alone.append([rows.logits])
            for _ in range(11):
                rows.write(alone[-1][-1].argmax(-1))
                alone[-1].append(rows.logits)
        slots = Slots(tiny.model, tiny.device, nothing)
        waiting, under_way, done = list(range(12)), list[int](), 0
        steps, logits = dict.fromkeys(range(12), 0), torch.empty(0)
        while done < 12:
            if under_way:
                for place in reversed(range(len(under_way))):
                    if steps[under_way[place]] == 11 or chance.random() < 0.05:
                        slots.leave(place)
                        under_way[place] = under_way[-1]
                        logits[place] = logits[-1]
                        under_way.pop()
                        logits, done = logits[:-1].clone(), done + 1
                if under_way:
                    logits = slots.write(logits.argmax(-1))
                    for row in under_way:
                        steps[row] += 1
            if waiting and (not under_way or chance.random() < 0.5):
                new = [waiting.pop() for _ in range(min(len(waiting), chance.randrange(1, 4)))]
                joined = slots.join([prompts[row] for row in new], [len(prompts[row]) + 12 for row in new])
                logits = torch.cat([logits, joined]) if under_way else joined
                under_way += new
            assert slots.count == len(under_way)
            for place, row in enumerate(under_way):
                torch.testing.assert_close(logits[place], alone[row][steps[row]][0], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return make_tiny()


def test_a_base_whose_cache_is_of_another_kind_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    from training_cases import SMALL

    config = {key: value for key, value in SMALL.items() if key != "tie_word_embeddings"}
    with pytest.raises(ResourceError, match="family mistral cannot be batched"):
        Slots(MistralForCausalLM(MistralConfig(**config, sliding_window=8)).eval(), CPU, nothing)


def test_the_cache_is_as_large_as_what_is_under_way(tiny: Loaded) -> None:
    slots = Slots(tiny.model, tiny.device, nothing)
    with torch.inference_mode():
        slots.join([[5, 6]], [500])
        large = slots._layers[0].room[0].shape
        slots.leave(0)
        slots.join([[7]] * 4, [10] * 4)
        small = slots._layers[0].room[0].shape
    assert (large[0], large[2]) == (1, 512)
    assert (small[0], small[2]) == (6, 64)
    assert slots.bytes_per_token == 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their size, bytes of a number


# --- text as it grows


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_pieces_are_the_text_up_to_a_stop_string(whole: str, stops: list[str]) -> None:
    data = list(whole.encode("utf-8"))  # a token a byte: characters come in halves

    def decode(ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    text, pieces = Text(decode, stops), []
    for token in data:
        pieces.append(text.add(token))
        if text.stopped:
            break
    pieces.append(text.end())
    shown = "".join(pieces)
    assert shown == shown.strip()
    assert not any(stop in shown for stop in stops)
    if text.stopped:
        assert whole.lstrip().startswith(shown)
    elif "\ufffd" not in whole:
        assert shown == whole.strip()


def test_text_is_that_of_the_engine(tiny: Loaded) -> None:
    engine = HfEngine(tiny)
    for seed in range(3):
        sampling = Sampling(60, temperature=1.5, seed=seed)
        written: list[str] = []
        made = engine.stream([("user", "Say something.")], sampling, written.append)
        ids = tiny.tokenizer(made.text, add_special_tokens=False)["input_ids"]
        text = Text(lambda some: str(tiny.tokenizer.decode(some, clean_up_tokenization_spaces=False)))
        pieces = [text.add(token) for token in ids]
        assert "".join(pieces) + text.end() == tiny.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


# --- requests


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "notes", "messages": [{"role": "user", "content": "Who?"}], **changes}).encode()


def test_a_request_with_everything() -> None:
    wanted = wire.read(
        body(
            max_tokens=9,
            max_completion_tokens=7,
            temperature=0,
            top_p=0.5,
            seed=-3,
            stop=["a", "b"],
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
            user="someone",
            n=1,
            tools=None,
            presence_penalty=0.0,
            response_format={"type": "text"},
        )
    )
    assert wanted == wire.Wanted("notes", (("user", "Who?"),), 7, 0.0, 0.5, -3, ("a", "b"), 2, True, True)


def test_a_request_with_little() -> None:
    wanted = wire.read(body(stop="x"))
    assert (wanted.max_tokens, wanted.temperature, wanted.top_p, wanted.stops) == (None, 0.0, 1.0, ("x",))
    assert (wanted.top_logprobs, wanted.stream, wanted.include_usage) == (None, False, False)
    assert wire.read(body()).seed != wire.read(body()).seed


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": 3}, "model"),
        ({"messages": "Who?"}, "messages"),
        ({"messages": ["Who?"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ],
)
def test_what_is_at_fault_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        wire.read(body(**changes))
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.as_json()["error"]["message"].startswith(f"{param} ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("model", "messages", "n", "max_tokens", "stop", "stream", "stream_options", "logprobs", "seed", "temperature")


@given(st.dictionaries(st.sampled_from(KEYS), json_values), st.binary(max_size=20))
def test_no_request_is_a_crash(data: dict[str, Any], raw: bytes) -> None:
    for given_body in (json.dumps(data).encode(), body(**data), raw):
        with suppress(Refused):
            assert wire.read(given_body).turns[-1][0] == "user"


def test_a_module_with_the_bases_name_is_listed_by_its_pinned_one() -> None:
    """By the name alone the base is meant."""
    module = replace(cli_cases.module(), id="m9")
    entries = [Entry("embedded", module), Entry("notes", module)]

    class Named(fuzz_server.Nothing):
        def entries(self) -> list[Entry]:
            return entries

    service = Service(fuzz_server.BASE, fuzz_server.Echo(), Named(), Limits(), Counts())  # type: ignore[arg-type]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/v1/models",
             "raw_path": b"/v1/models", "query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip
    sent: list[Any] = []

    async def asked() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app.build(service, None, "token")(scope, receive, send)

    asyncio.run(asked())
    listed = [model["id"] for model in json.loads(sent[1]["body"])["data"]]
    assert listed == ["embedded", "embedded@m9", "notes", "notes@m9"]
    assert service.find("embedded") is None
