"""A chat template rendered as transformers renders it, without transformers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from kmcli.engines import Chat


def compiled(source: str, bos: str, eos: str) -> Any:
    """The template, for `rendered`. bos, eos: the tokens that the template may write. Raises jinja2.TemplateError."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTags(Extension):
        """{% generation %} marks what an assistant wrote, for training; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012  (jinja2's own way)

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form), bos_token=bos, eos_token=eos
    )
    return environment.from_string(source)


def rendered(template: Any, chat: Chat) -> str:
    """The chat as the model reads it, up to where the assistant starts to write. Models that think aloud are asked not to.

    Raises jinja2.TemplateError, and whatever a template runs into, for a chat that the template does not allow.
    """
    messages = [{"role": role, "content": content} for role, content in chat]
    return str(template.render(messages=messages, add_generation_prompt=True, enable_thinking=False))


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """jinja2's own would escape what HTML does not allow."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
