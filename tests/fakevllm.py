"""A server that speaks as vLLM's does, as far as km asks it: answers are the prompt's own tokens. fakevllm.py PORT"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLD: list[str] = []
LOADED = {"base"}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message}})

    def do_GET(self) -> None:
        self.answer(200, TOLD if self.path == "/told" else {})

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.fail(401, "who are you")
        elif self.path == "/v1/load_lora_adapter":
            TOLD.append(f"load {data['lora_name']} {data['lora_path']}")
            LOADED.add(data["lora_name"])
            self.answer(200, "loaded")
        elif self.path == "/v1/unload_lora_adapter":
            TOLD.append(f"unload {data['lora_name']}")
            LOADED.remove(data["lora_name"])
            self.answer(200, "unloaded")
        elif data["model"] not in LOADED:
            self.fail(404, f"no {data['model']}")
        elif "prompt_embeds" in data:
            TOLD.append(f"read {data['prompt_embeds']}")
            self.write({**data, "prompt": [5, 6, 7]})
        elif len(data["prompt"]) > 40 and data["max_tokens"] == 24:
            self.fail(400, "no thank you.")
        else:
            self.write(data)

    def write(self, data: dict[str, Any]) -> None:
        TOLD.append(f"write {data['model']}")
        slow = data["max_tokens"] > 100
        ids = [token for token in data["prompt"] if token not in data["stop_token_ids"]] * 100
        self.send_response(200)
        self.end_headers()
        try:
            for count, token in enumerate(ids[: data["max_tokens"]], 1):
                named = f"token_id:{token}"
                scores = {
                    "tokens": [named],
                    "token_logprobs": [-0.5],
                    "top_logprobs": [{named: -0.5, "token_id:9": -0.25}],
                }
                choice = {
                    "token_ids": [token],
                    "logprobs": None if data["logprobs"] is None else scores,
                    "finish_reason": "length" if count == data["max_tokens"] else None,
                }
                self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
                self.wfile.flush()
                time.sleep(0.05 * slow)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            TOLD.append("left")


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()
