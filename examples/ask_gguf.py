"""Ask an exported GGUF one question with llama-cpp-python alone: nothing of km is imported here."""

from __future__ import annotations

import sys

from llama_cpp import Llama


def main() -> int:
    file, question = sys.argv[1:]
    model = Llama(file, n_ctx=512, verbose=False)
    made = model.create_chat_completion([{"role": "user", "content": question}], temperature=0.0, max_tokens=64)
    print(made["choices"][0]["message"]["content"].strip())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
