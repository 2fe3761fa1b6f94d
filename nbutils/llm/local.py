"""A judge, or refiner, on this machine: a chat model through transformers, in 4 bits where there is a GPU.

The model is a folder, or a model of the Hub pinned to a commit; code that comes with it is never run. Decoding is
greedy, in batches of prompts of similar length, the longest first, so that memory runs out early or not at all.
"""

import asyncio
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbutils.core.disk import sha256_file, sha256_json
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import TOO_SMALL, JudgeModel
from nbutils.core.machine import choose_precision, quiet_libraries
from nbutils.llm.client import Record, Reply, Request
from nbutils.llm.thoughts import split_thoughts

TELLING_SECONDS = 10.0

SMALLEST = 500_000_000
"""Parameters below which a model is refused as a judge (`judge_settings.TOO_SMALL` says why)."""


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Say every few seconds what is waited for while the block computes."""
    ended, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(TELLING_SECONDS):
            print(f"waiting: {what}, {time.monotonic() - started:.0f} s", file=sys.stderr)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


class TransformersBackend:
    """Answers by a chat model on this machine, loaded at the first request.

    Raises InputError for a model that is neither a folder nor pinned, cannot be loaded, or has no chat template.
    """

    def __init__(self, judge: JudgeModel) -> None:
        self._judge = judge
        _options(judge)

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Answer batch after batch; a prompt that does not fit into the model's context is a recorded failure."""
        with telling(f"loading {self._judge.model}"):
            tokenizer, model = load(self._judge)
        prompts = {request.key: encode(tokenizer, request) for request in requests}
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        fitting = []
        for request in requests:
            length = len(prompts[request.key])
            if room and length + request.max_tokens > room:
                said = f"a prompt of {length} tokens and an answer of {request.max_tokens} exceed {room}"
                record.keep(request, Reply(None, f"{said}, the model's context"))
            else:
                fitting.append(request)
        fitting.sort(key=lambda request: -len(prompts[request.key]))
        for first in range(0, len(fitting), self._judge.batch_size):
            batch = fitting[first : first + self._judge.batch_size]
            with telling(f"{self._judge.name} is answering {len(batch)} prompts at once"):
                replies = _generate(model, tokenizer, batch, prompts)
            for request, reply in zip(batch, replies, strict=True):
                record.keep(request, reply)
            await asyncio.sleep(0)  # where a notebook's stop button reaches us


def identify(judge: JudgeModel) -> str:
    """What determines this judge's answers beside the request: the weights' hash or commit, and the number format."""
    folder, precision = Path(judge.model).expanduser(), choose_precision()
    weights = judge.revision
    if folder.is_dir():
        endings = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")
        files = [path for path in folder.iterdir() if path.name.endswith(endings)]
        weights = sha256_json({path.name: sha256_file(path) for path in files})[:16]
    return f"transformers {weights} {'nf4' if precision.device == 'cuda' else precision.dtype}"


def load(judge: JudgeModel) -> tuple[Any, Any]:
    """Tokenizer and model, ready for generation. Raises InputError where one cannot be had or is too small."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    quiet_libraries()
    precision, options = choose_precision(), _options(judge)
    number_format: dict[str, Any] = {"dtype": precision.torch_dtype}
    if precision.device != "cpu":
        number_format |= {"quantization_config": precision.nf4(), "device_map": {"": precision.device}}
    model: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(judge.model, **options)
        model = AutoModelForCausalLM.from_pretrained(judge.model, **options, **number_format)
    except (OSError, ValueError) as error:
        raise InputError(f"judge model {judge.model}: {str(error).splitlines()[0]}") from None
    if (parameters := model.num_parameters()) < SMALLEST:
        raise InputError(f"judge model {judge.model}: {parameters / 1e6:,.0f} million parameters: {TOO_SMALL}")
    if not tokenizer.chat_template:
        raise InputError(f"judge model {judge.model}: no chat template: it is not made for answering, choose another")
    # Models bring settings for sampling and against repetition, which would join ours.
    stop = model.generation_config.eos_token_id or tokenizer.eos_token_id
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=padding)
    return tokenizer, model.to(precision.device).eval() if precision.device == "cpu" else model.eval()


def encode(tokenizer: Any, request: Request) -> list[int]:
    """Token ids of a request in the model's chat format; a template without a system role gets it before the user's."""
    from jinja2 import TemplateError

    messages = [{"role": role, "content": text} for role, text in request.messages]
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    # The model's control tokens are broken by an invisible mark, so that no answer can end its turn.
    for token in sorted(special, key=len, reverse=True):
        broken = f"{token[:1]}\u2060{token[1:]}"
        for message in messages:
            message["content"] = message["content"].replace(token, broken)
    format_ids = functools.partial(tokenizer.apply_chat_template, add_generation_prompt=True, return_dict=False)
    try:
        return list(format_ids(messages))
    except TemplateError:
        joined = "\n\n".join(message["content"] for message in messages)
        return list(format_ids([{"role": "user", "content": joined}]))


def _generate(model: Any, tokenizer: Any, batch: Sequence[Request], prompts: dict[str, list[int]]) -> list[Reply]:
    import torch

    longest = max(len(prompts[request.key]) for request in batch)
    gaps = [longest - len(prompts[request.key]) for request in batch]
    pad = model.generation_config.pad_token_id
    ids = [[pad] * gap + prompts[request.key] for gap, request in zip(gaps, batch, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max(request.max_tokens for request in batch),
            do_sample=False,
        )
    replies = []
    for row, request in zip(output, batch, strict=True):
        new = row[longest:].tolist()[: request.max_tokens]
        text = tokenizer.decode(new, skip_special_tokens=True).strip()
        written = sum(token != tokenizer.pad_token_id for token in new)
        thoughts, said = split_thoughts(text)
        # The last token of an answer that ends by itself is the end of the turn.
        is_cut = written >= request.max_tokens and new[-1] not in _ends(model)
        reason = "length" if is_cut else "" if said else "empty"
        error = None if text else "the model wrote no text"
        reply = Reply(said if text else None, error, len(prompts[request.key]), written)
        replies.append(reply._replace(reason=reason, reasoning=thoughts))
    return replies


def _ends(model: Any) -> list[int]:
    end = model.generation_config.eos_token_id
    return end if isinstance(end, list) else [end]


def _options(judge: JudgeModel) -> dict[str, Any]:
    if Path(judge.model).expanduser().is_dir():
        return {"trust_remote_code": False}
    if not judge.revision:
        raise InputError(f"'{judge.model}' is no folder; a model of the Hub needs 'revision', a full commit hash")
    return {"trust_remote_code": False, "revision": judge.revision}
