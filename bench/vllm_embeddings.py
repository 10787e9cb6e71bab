"""Whether vLLM takes prompt embeddings and a LoRA at once, and computes what transformers and PEFT do.

    python bench/vllm_embeddings.py reference BASE LORA rows.pt          writes the rows, prints what is expected
    VLLM/bin/python bench/vllm_embeddings.py vllm BASE LORA rows.pt      prints the same of vLLM, in its own environment

BASE: a model folder. LORA: a PEFT folder of rank 16 at most. Of rows that are no tokens' embeddings, and some that are, it
prints the greedy tokens and the first one's log-probabilities, without the LoRA and with it.
"""

from __future__ import annotations

import json
import os
import sys

NEW = 8
"""Tokens that are written."""


def reference(base: str, lora: str, file: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    table = plain.get_input_embeddings().weight.detach()
    torch.manual_seed(0)
    rows = torch.cat([table.std() * torch.randn(12, table.shape[1]), table[100:120]])
    torch.save(rows, file)
    for on in (False, True):
        model = PeftModel.from_pretrained(plain, lora).eval() if on else plain
        read, ids, first = rows[None], [], {}
        with torch.no_grad():
            for _ in range(NEW):
                found = model(inputs_embeds=read).logits[0, -1].log_softmax(-1)
                first = first or {int(token): float(found[token]) for token in found.topk(3).indices}
                ids.append(int(found.argmax()))
                read = torch.cat([read, table[ids[-1]][None, None]], 1)
        print(json.dumps({"lora": on, "ids": ids, "first": first}))


def vllm(base: str, lora: str, file: str) -> None:
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    import torch
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=base,
        dtype="float32",
        max_model_len=640,
        enforce_eager=True,
        enable_prompt_embeds=True,
        enable_lora=True,
        max_lora_rank=16,
        enable_prefix_caching=False,
    )
    sampling = SamplingParams(temperature=0, max_tokens=NEW, logprobs=3)
    for on in (None, LoRARequest("module", 1, lora)):
        prompt = {"prompt_embeds": torch.load(file)}
        out = engine.generate([prompt], sampling, lora_request=on, use_tqdm=False)[0].outputs[0]
        first = {token: value.logprob for token, value in out.logprobs[0].items()}
        print(json.dumps({"lora": on is not None, "ids": list(out.token_ids), "first": first}))


if __name__ == "__main__":
    {"reference": reference, "vllm": vllm}[sys.argv[1]](*sys.argv[2:])
