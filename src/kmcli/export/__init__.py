"""A Knowledge Module as one file for other programs: base and adapter in one GGUF, and proof that it is the same model.

| module      | does                                                        | to add one                        |
|-------------|-------------------------------------------------------------|-----------------------------------|
| `families`  | which model families can be written, and their GGUF keys    | an entry in its FAMILIES          |
| `tokenizer` | a byte-level BPE vocabulary as GGUF keys                     | an entry in its PRE_TOKENIZERS    |
| `merge`     | base weights and LoRA deltas, tensor by tensor               |                                   |
| `writer`    | the file                                                     | a type: types.Quant, its `_type`  |
| `lora`      | the adapter alone, as a LoRA file beside a base's            |                                   |
| `runtime`   | llama.cpp's view of a file (optional extra `gguf`)           |                                   |
| `check`     | llama.cpp against transformers                               | a type: its TOLERANCES            |
"""

from __future__ import annotations

from kmcli.export.check import Checked, check_gguf
from kmcli.export.lora import export_lora
from kmcli.export.runtime import ask_gguf
from kmcli.export.writer import Exported, export_gguf

__all__ = ["Checked", "Exported", "ask_gguf", "check_gguf", "export_gguf", "export_lora"]
