"""Whether a tokenizer and its model agree: the token that pads, the one that ends an answer, and ids without a row.

An id outside of the model's embedding is no error on a CPU until it is looked up, and on a GPU one that names neither
file nor token. Nothing is ever resized: what does not fit is refused, before anything is trained.
"""

import re
from collections.abc import Sequence
from typing import Any

from nbutils.core.errors import InputError
from nbutils.prompts import Example

# Words by which makers name tokens that no text holds, the likeliest to be meant for padding first.
SPARE = ("pad", "reserved", "unused", "extra", "fim", "endoftext", "sep", "mask", "start")


def choose_padding(tokenizer: Any, rows: int) -> tuple[str, str]:
    """The token to pad with, and why; `rows` are those of the model's embedding.

    The tokenizer's own if it is inside the embedding and neither ends nor begins a text: padding with the end of
    sequence would mask it, and the model would never learn to stop. Else the unknown token, with which the paper pads
    as well, else a token that its maker has kept in reserve. Raises InputError where there is none.
    """
    own, unknown = tokenizer.pad_token, tokenizer.unk_token
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}

    def fits(token: str | None) -> bool:
        number = None if token is None else tokenizer.convert_tokens_to_ids(token)
        return number is not None and 0 <= number < rows and number not in taken

    if fits(own):
        return own, "its own"
    why = "it has none of its own"
    if own is not None:
        why = "its own ends or begins a text" if tokenizer.pad_token_id in taken else f"its own, '{own}', has no row"
    if fits(unknown):
        return unknown, f"{why}: the unknown token"
    if spare := next((token for token in _spare_tokens(tokenizer) if fits(token)), None):
        return spare, f"{why}: a reserved one"
    raise InputError(
        f"its tokenizer cannot pad ({why}, and none is in reserve): give it a pad_token among its {rows} rows"
    )


def _spare_tokens(tokenizer: Any) -> list[str]:
    """Special tokens by how likely they are to be meant for nothing else."""
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {token: number for token, number in tokenizer.get_vocab().items() if re.fullmatch(r"<[|\w]*>", token)}
    found = [
        (next((i for i, word in enumerate(SPARE) if word in token.lower()), None), number, token)
        for token, number in special.items()
    ]
    return [token for _, _, token in sorted(each for each in found if each[0] is not None)]


def settle(tokenizer: Any, rows: int) -> str:
    """Give a tokenizer the token to pad with; a line on what was chosen and on special tokens without a row, or "".

    Raises InputError for a tokenizer that has no end of sequence, or one or ordinary tokens outside of the embedding.
    """
    for name, mend in (("eos", "a model could never learn to stop: set eos_token"), ("bos", "set bos_token")):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is None and name == "eos":
            raise InputError(f"its tokenizer has no end of sequence: {mend} in tokenizer_config.json")
        if number is not None and not 0 <= number < rows:
            token = getattr(tokenizer, f"{name}_token")
            raise InputError(f"its {name}_token '{token}' is id {number}, and its embedding has {rows} rows: {mend}")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    outside = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if ordinary := sorted(set(outside) - special):
        example = f"{len(ordinary)} tokens, first '{outside[ordinary[0]]}' with id {ordinary[0]}"
        raise InputError(f"its tokenizer has {example}, and its embedding {rows} rows: use the tokenizer it came with")
    token, why = choose_padding(tokenizer, rows)
    said = [] if why == "its own" else [f"padding with '{token}' (id {tokenizer.convert_tokens_to_ids(token)}): {why}"]
    tokenizer.pad_token = token
    said += [f"{len(outside)} special tokens have no row and stay unused"] if outside else []
    return "; ".join(said)


def check_ids(examples: Sequence[Example], rows: int) -> None:
    """Raise InputError for an example with a token that the embedding, of so many rows, does not have."""
    highest = max(max(example.input_ids) for example in examples)
    if highest >= rows:
        raise InputError(f"a row has the token {highest}, and the model's embedding has {rows} rows: other tokenizer?")
