"""A conversation as a base reads it: token ids by its chat template, and the tokens that end its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmcli.errors import ResourceError
from kmcli.visible import apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def only_text(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns, in which the special tokens' names, as a document may have them, are no tokens."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [(role, apart(content, special)) for role, content in turns]


def chat_ids(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> list[int]:
    """See Loaded.chat_ids. A tokenizer without a chat template gets plain text, a turn a paragraph.

    Special tokens are what the template writes: their names in a turn, as a document may have them, are only text.
    Raises ResourceError where the template does not allow such a conversation.
    """
    turns = only_text(tokenizer, turns)
    if tokenizer.chat_template:
        from jinja2 import TemplateError

        try:
            # The template writes the special tokens, so none are added. Models that think aloud are asked not to.
            ids: Any = tokenizer.apply_chat_template(
                _messages(turns), add_generation_prompt=True, return_dict=False, enable_thinking=False
            )
        except TemplateError as error:
            raise ResourceError(
                f"the base's chat template does not allow this conversation: {str(error).rstrip('.')}.",
                "Choose another base with --model.",
            ) from None
        return [int(token) for token in ids]
    text = "\n\n".join(content for _, content in turns) + "\n"
    plain = [int(token) for token in tokenizer(text)["input_ids"]]
    closed = bool(plain) and plain[-1] == tokenizer.eos_token_id  # some tokenizers close every text
    return plain[:-1] if closed else plain


def end_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """See Loaded.end_ids. Raises ResourceError where the base has no token that ends a text."""
    named = getattr(generation_config, "eos_token_id", None)
    ids: list[Any] = [*_turn_end(tokenizer), tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    unique = list(dict.fromkeys(int(token) for token in ids if token is not None))
    if not unique:
        raise ResourceError("the base has no token that ends an answer.", "Choose another base with --model.")
    return unique


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as it stands inside a text; U+FFFD for half of a character, special tokens by their names.

    Behind itself, because some tokenizers drop a blank that begins a text.
    """
    once, twice = (
        str(tokenizer.decode([token] * times, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for times in (1, 2)
    )
    return twice[len(once) :]


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special token that the chat template writes after an answer; [] where it writes none.

    Not always the tokenizer's eos_token: some models keep that for the end of a document.
    """
    if not tokenizer.chat_template:
        return []
    from jinja2 import TemplateError

    answer = "the answer"
    try:
        text = str(tokenizer.apply_chat_template(_messages([("user", "q"), ("assistant", answer)]), tokenize=False))
    except TemplateError:
        return []
    _, found, tail = text.rpartition(answer)
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if found else []
    return [token for token in ids if token in tokenizer.added_tokens_decoder][:1]


def _messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]
