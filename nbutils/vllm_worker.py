"""Answers by vLLM in a process and an environment of its own; needs the standard library and vllm, and nothing else.

    python vllm_worker.py JOB.json ANSWERS.jsonl

JOB.json holds `model` (a folder with 16-bit weights), `context` (tokens), `seed`, `eos` (token id), `temperature`,
`min_tokens` and `questions`, a list of `ids`, `max_tokens` and `seed`. Each line of ANSWERS.jsonl is written as its
chunk is done: `number` (the question's), `ids` (of the answer). Tested against a stand-in with vLLM's interface
(LLM, SamplingParams, TokensPrompt as in its documentation, 0.9 and later); not run here with vLLM itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

CHUNK = 256
"""Questions handed over at once: what a kill costs, against the stragglers at the end of every chunk."""


def main(job_path: str, answers_path: str) -> None:
    """Answer all questions of a job."""
    from vllm import LLM, TokensPrompt

    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    # generation_config="vllm": no sampling defaults and no further stop tokens out of the model's own folder.
    engine = LLM(model=job["model"], max_model_len=job["context"], seed=job["seed"], generation_config="vllm")
    numbered = list(enumerate(job["questions"]))
    with open(answers_path, "a", encoding="utf-8") as file:
        for first in range(0, len(numbered), CHUNK):
            chunk = numbered[first : first + CHUNK]
            asked = [TokensPrompt(prompt_token_ids=question["ids"]) for _, question in chunk]
            outputs = engine.generate(asked, [sampling(job, question) for _, question in chunk], use_tqdm=False)
            for (number, _), output in zip(chunk, outputs, strict=True):
                file.write(json.dumps({"number": number, "ids": list(output.outputs[0].token_ids)}) + "\n")
            file.flush()


def sampling(job: dict[str, Any], question: dict[str, Any]) -> Any:
    """How one question is answered: nothing is left to vLLM's or the checkpoint's defaults."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=job["temperature"],
        top_p=1.0,
        top_k=0,
        max_tokens=question["max_tokens"],
        min_tokens=min(job["min_tokens"], question["max_tokens"]),
        stop_token_ids=[job["eos"]],
        seed=question["seed"],
        detokenize=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
