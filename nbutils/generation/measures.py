"""What can be said of an arm without a judge: its answers' lengths, ends and repetitions; likelihoods of references.

References are responses that no arm was trained on. The number of one is the mean log-likelihood of a token of it, in
nats: minus the loss that training would have on it, with the prompt in training's template and the end of sequence
counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils import arms, data, lengths, prompts
from nbutils.analysis.leaderboards import BASELINE
from nbutils.core import disk, tables
from nbutils.core.errors import InputError
from nbutils.core.machine import track
from nbutils.core.settings import Measures, Profile
from nbutils.data.rows import Row

if TYPE_CHECKING:
    from pandas import DataFrame


NGRAM = 4
"""Words in a row that count as one thing said."""


def repetition(text: str) -> float:
    """Share (0..1) of a text's runs of four words that have stood in it before; 0 for fewer than five words."""
    words = text.split()
    runs = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def describe_answers(answers: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """One row an answer: `test_set`, `id`, `tokens` (the end counted), `words`, `stopped`, `repetition`."""
    words = lengths.count([answer["response"] for answer in answers], "words").tolist()
    rows = [
        {
            "test_set": answer["test_set"],
            "id": str(answer["id"]),
            "tokens": answer["n_tokens"],
            "words": count,
            "stopped": answer["finish_reason"] == "stop",
            "repetition": round(repetition(answer["response"]), 6),
        }
        for answer, count in zip(answers, words, strict=True)
    ]
    return tables.make("answer_facts", rows)


def _of_sample() -> Iterator[Row]:
    for number, prompt in enumerate(data.load_prompts("sample")):
        yield Row(number, "sample", prompt.instruction, prompt.input, prompt.reference)


def _of_lima() -> Iterator[Row]:
    yield from data.load_rows("lima-1k")


def _of_mt_bench() -> Iterator[Row]:
    """GPT-4's answers to the first questions, where there are such: reasoning, maths and code."""
    asked = {prompt.id: prompt.instruction for prompt in data.load_prompts("mt-bench")}
    for record in data.load_table("mt-bench-references").to_dict("records"):
        number = int(record["question_id"])
        yield Row(number, "mt-bench", asked[f"mt_bench_{number}"], "", record["choices"][0]["turns"][0])


def _of_alpaca_eval() -> Iterator[Row]:
    """GPT-4's outputs, against which AlpacaEval 2.0 compares."""
    for place, (prompt, output) in sorted(data.load_outputs(BASELINE).items()):
        yield Row(int(place), "alpaca-eval", prompt.instruction, "", output)


SETS: dict[str, tuple[Callable[[], Iterator[Row]], tuple[str, ...]]] = {
    "sample": (_of_sample, ("sample-prompts",)),
    "lima": (_of_lima, ("lima-1k",)),
    "mt-bench": (_of_mt_bench, ("mt-bench", "mt-bench-references")),
    "alpaca-eval": (_of_alpaca_eval, ("alpaca-eval", "alpaca-eval-outputs")),
}
"""Sets of references: what reads one, and the sources that it reads."""


def sets_at_hand(measures: Measures) -> dict[str, str]:
    """Hashes of the sets of references that can be read without the network, by name; none where none is asked for."""
    if unknown := [name for name in measures.references if name not in SETS]:
        raise InputError(f"measures.references: unknown set '{unknown[0]}': choose from {', '.join(SETS)}")
    wanted = measures.references if measures.texts else ()
    here = [name for name in wanted if all(map(data.is_at_hand, SETS[name][1]))]
    return {name: disk.sha256_json([data.fingerprint(source) for source in SETS[name][1]]) for name in here}


def is_own_set(arm: str, references: str) -> bool:
    """Whether an arm trains on a whole set of references: such an arm is not measured by it, and drops none of it."""
    parsed = arms.parse_arm(arm)
    return parsed.rule == "all" and parsed.pool in SETS[references][1]


def held_out(measures: Measures, names: Sequence[str], taught: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """At most `texts` references of each set, drawn once for all arms from those that none of them was taught.

    taught: every arm's training rows. A reference goes where an arm has its response or its prompt, an earlier turn's
    too; capital letters and white space do not count.
    """
    found = {}
    for name in names:
        rows = [row for arm, given in taught.items() if not is_own_set(arm, name) for row in given]
        said = {_plain(text) for row in rows for text in row.responses}
        asked = {_plain(_question(row)) for row in rows}
        asked |= {_plain(question) for row in rows for question, _ in row.history}
        read = [row for row in SETS[name][0]() if row.response.strip()]
        kept = [row for row in read if _plain(row.response) not in said and _plain(_question(row)) not in asked]
        drawn = np.random.default_rng(0).permutation(len(kept))[: measures.texts]
        found[name] = [kept[i] for i in sorted(drawn.tolist())]
    return found


def _question(row: Row) -> str:
    return f"{row.instruction} {row.input}"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def measure(model: Any, tokenizer: Any, profile: Profile, references: Mapping[str, Sequence[Row]]) -> "DataFrame":
    """One row a reference: `references` (its set), `id`, `tokens` that were counted, and their mean `log_likelihood`.

    A reference is cut where it and its prompt reach `max_tokens`; one whose prompt alone does is left out.
    """
    style, longest = profile.training.prompt_style, profile.measures.max_tokens
    texts = [(name, row) for name, rows in references.items() for row in rows]
    found = []
    for name, row in track(texts, "references"):
        example = prompts.encode(row, tokenizer, style, longest)
        if example.trained:
            mean = log_likelihood(model, example)
            found.append(
                {"references": name, "id": str(row.id), "tokens": example.trained, "log_likelihood": round(mean, 6)}
            )
    return tables.make("likelihoods", found)


def log_likelihood(model: Any, example: prompts.Example) -> float:
    """Mean log-likelihood, in nats, of the tokens of an example that training would train."""
    import torch

    places = [place for place, label in enumerate(example.labels) if label != prompts.IGNORED]
    given = torch.tensor([example.input_ids], device=model.device)
    before = torch.tensor([place - 1 for place in places], device=model.device)
    wanted = torch.tensor([example.labels[place] for place in places], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=given, logits_to_keep=before).logits[0].float()
        return float(-torch.nn.functional.cross_entropy(logits, wanted))
