"""Datasets in small tables: how long their responses are, what the longest are like, and how selections agree.

Every `tabulate_...` gives one table as a pandas frame; `explore` (stage 01) writes them as CSV. Responses are counted
once per measure and all tables reuse the counts.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbutils import arms, data, lengths
from nbutils.core.tables import make
from nbutils.data.rows import Row, first_verb
from nbutils.data.tokens import Lengths
from nbutils.selection import draw, topk

if TYPE_CHECKING:
    from pandas import DataFrame

SELECTED_FROM = {
    "alpaca-52k": ("alpaca-1k-longest-published", "alpaca-1k-score"),
    "evol-70k": ("evol-1k-longest-published", "evol-1k-score"),
}
"""The published selections of a pool, whose rows carry the pool's numbers."""
PUBLISHED = {pool: longest for pool, (longest, _) in SELECTED_FROM.items()}
RULES = ("longest", "longest-stratified", "longest-instruction", "shortest", "random-7", "random-token-matched-7")


class Counted(NamedTuple):
    """Rows with the length of every response; `lengths` maps a measure to int64 of shape (rows,)."""

    name: str
    rows: list[Row]
    lengths: dict[str, Lengths]

    @property
    def ids(self) -> set[int]:
        """Numbers of the rows in the dataset that they come from."""
        return {row.id for row in self.rows}

    @property
    def trained(self) -> Lengths:
        """Tokens that every row adds to the loss: its responses', and an end of sequence each (shape (rows,))."""
        tokens = self.lengths["tokens" if "tokens" in self.lengths else "nltk_words"]
        return tokens + np.array([len(row.responses) for row in self.rows])


class Pool(NamedTuple):
    """A dataset to select from, its k, the selections drawn here, and those of it that were published."""

    counted: Counted
    k: int
    drawn: dict[str, Counted]
    published: list[Counted]

    @property
    def longest(self) -> Counted:
        """The k longest by NLTK words."""
        return next(iter(self.drawn.values()))

    @property
    def reference(self) -> Counted:
        """What other measures are compared with: the published selection of this size, else the longest drawn here."""
        name = PUBLISHED.get(self.counted.name)
        found = (known for known in self.published if known.name == name and len(known.rows) == self.k)
        return next(found, self.longest)


def count_dataset(name: str) -> Counted:
    """Load a dataset (a source, or the path of one's own file) and count its responses under every measure."""
    rows = data.load_pool(name)
    turns = [row.responses for row in rows]
    counters = {measure: functools.partial(lengths.count_again, measure=measure) for measure in measures_at_hand()}
    return Counted(name, rows, {measure: topk.per_row(turns, "sum", count) for measure, count in counters.items()})


def measures_at_hand() -> list[str]:
    """The paper's measure first, then its rivals; Llama-2 tokens only where the tokenizer is at hand."""
    return ["nltk_words", "words", "chars", *(["tokens"] if data.is_at_hand("llama2-tokenizer") else [])]


def tabulate_rows(dataset: Counted) -> "DataFrame":
    """A line for each row: id, what was asked, the response, its length under every measure, its trained tokens."""
    import pandas as pd

    asked = ["\n\n".join(filter(None, [row.instruction, row.input])) for row in dataset.rows]
    about = {"id": [row.id for row in dataset.rows], "instruction": asked, "response": texts_of(dataset.rows)}
    return pd.DataFrame({**about, **dataset.lengths, "trained": dataset.trained})


def published_ids(pool: str) -> dict[str, set[int]]:
    """Row numbers of the published selections of a pool that are at hand, by the selection's name."""
    there = filter(data.is_at_hand, SELECTED_FROM.get(pool, ()))
    return {name: {row.id for row in data.load_rows(name)} for name in there}


def tabulate_facts(facts: Mapping[str, Any]) -> "DataFrame":
    """What a selection found, in words: a line each, with what it is counted of (both as `select` keeps them)."""
    import pandas as pd

    unit = {"nltk_words": "NLTK words", "chars": "characters"}.get(facts["measure"], facts["measure"])
    lines = [
        ("rows kept", facts["rows"], facts["pool_rows"]),
        (f"shortest response kept, in {unit}", facts["threshold"], None),
        ("rows of exactly that length, kept", facts.get("ties_taken"), facts.get("ties_at_threshold")),
        ("mean length of the rows kept", round(facts["mean_length"], 1) if "mean_length" in facts else None, None),
        ("trained tokens", facts.get("trained_tokens"), None),
        ("row numbers that are in the published selection", facts.get("ids_in_published_selection"), facts["rows"]),
    ]
    known = [line for line in lines if line[1] is not None]
    return pd.DataFrame(known, columns=["of the selection", "found", "of"], dtype=object)


def texts_of(rows: Iterable[Row]) -> list[str]:
    """The response of every row, several turns joined by a line feed."""
    return ["\n".join(row.responses) for row in rows]


def make_pool(counted: Counted, k: int, published: list[Counted]) -> Pool:
    """Draw the paper's selection of a dataset and the controls that the paper lacks, named as arms."""
    count = functools.partial(lengths.count_again, measure="nltk_words")
    trained, drawn = counted.trained, {}
    for name in (arm_name(counted.name, k, rule) for rule in RULES):
        positions = draw.draw(arms.parse_arm(name), counted.rows, count, lambda row: int(trained[row]))
        kept = {measure: values[positions] for measure, values in counted.lengths.items()}
        drawn[name] = Counted(name, [counted.rows[i] for i in positions], kept)
    return Pool(counted, k, drawn, published)


def arm_name(pool: str, k: int, rule: str) -> str:
    """Name of the arm that a rule draws from a pool, as `arms.parse_arm` reads it."""
    prefix = next((prefix for prefix, source in arms.POOLS.items() if source == pool), "own")
    if "matched" in rule and k == arms.DEFAULT_K:  # its k is the budget's, not its size, and goes without saying
        return f"{prefix}-{rule}"
    return f"{prefix}-{k // 1000}k-{rule}" if k % 1000 == 0 else f"{prefix}-{k}-{rule}"


def tabulate_lengths(datasets: Iterable[Counted]) -> "DataFrame":
    """Per dataset: rows; mean, median, least and most NLTK words of a response; mean under the other measures."""
    records = []
    for dataset in datasets:
        words = dataset.lengths["nltk_words"]
        record = {"dataset": dataset.name, "rows": len(words), "mean": _round(words.mean())}
        record |= {"median": float(np.median(words)), "min": int(words.min()), "max": int(words.max())}
        others = {f"mean_{measure}": _round(values.mean()) for measure, values in dataset.lengths.items()}
        others.pop("mean_nltk_words")
        records.append(record | others)
    return make("lengths", records)


def tabulate_histograms(datasets: Sequence[Counted]) -> "DataFrame":
    """Per dataset and bin: rows with low <= NLTK words < high, on an axis shared by all."""
    import pandas as pd

    edges = bin_edges(max(int(dataset.lengths["nltk_words"].max()) for dataset in datasets))
    bins = {"low": edges[:-1], "high": edges[1:]}
    counts = {dataset.name: np.histogram(dataset.lengths["nltk_words"], edges)[0] for dataset in datasets}
    return pd.concat([pd.DataFrame({"dataset": name, **bins, "rows": rows}) for name, rows in counts.items()])


def bin_edges(longest: int) -> list[int]:
    """Whole numbers 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, ... up to the first above `longest`.

    The bins grow by a quarter of an octave, so that they are equally wide on a logarithmic axis.
    """
    edges, step = [0, 1], 1
    while edges[-1] <= longest:
        edge = round(2 ** (step / 4))
        edges += [edge] if edge > edges[-1] else []
        step += 1
    return edges


def tabulate_budget(datasets: Iterable[Counted]) -> "DataFrame":
    """Per training set: tokens in the loss per epoch, those of every response and one end of sequence per row."""
    records = []
    for dataset in datasets:
        total, rows = int(dataset.trained.sum()), len(dataset.rows)
        unit = "Llama-2 tokens" if "tokens" in dataset.lengths else "NLTK words"
        per_row = _round(total / rows)
        records.append({"arm": dataset.name, "rows": rows, "trained": total, "per_row": per_row, "unit": unit})
    return make("budget", records)


def tabulate_measures(pools: Iterable[Pool]) -> "DataFrame":
    """Per pool and measure: how many of the k longest under that measure are in the reference selection."""
    records = []
    for pool in pools:
        reference, k, rows = pool.reference, pool.k, pool.counted.rows
        found = {(measure, "response"): topk.top_k(values, k) for measure, values in pool.counted.lengths.items()}
        whole = [row.instruction + row.input + text for row, text in zip(rows, texts_of(rows), strict=True)]
        found["chars", "whole example"] = topk.longest(whole, k, "chars")
        found["chars", "instruction"] = topk.longest([row.instruction for row in rows], k, "chars")
        about = {"pool": pool.counted.name, "k": k, "reference": reference.name}
        for (measure, text), positions in found.items():
            shared = len({rows[i].id for i in positions} & reference.ids)
            chance = _round(k * k / len(rows))
            records.append({**about, "measure": measure, "text": text, "shared": shared, "by_chance": chance})
    return make("measures", records)


def tabulate_overlaps(pools: Iterable[Pool]) -> "DataFrame":
    """Per pair of selections from one pool (each with itself too): rows in both, by their number in the pool."""
    records = []
    for pool in pools:
        for left, right in itertools.combinations_with_replacement([*pool.drawn.values(), *pool.published], 2):
            sizes = len(left.rows), len(right.rows)
            chance = _round(sizes[0] * sizes[1] / len(pool.counted.rows))
            record = {"pool": pool.counted.name, "left": left.name, "right": right.name}
            records.append(record | {"shared": len(left.ids & right.ids), "of": min(sizes), "by_chance": chance})
    return make("overlaps", records)


def tabulate_scores(datasets: Iterable[Counted]) -> "DataFrame":
    """Per dataset that carries the ratings by GPT-3.5 (AlpaGasus', 0 to 5): rows at each score."""
    records = []
    for dataset in datasets:
        scores = Counter(row.score for row in dataset.rows if row.score is not None)
        if set(scores) != {0.0}:  # LIMA's rows carry a 0 that nobody gave
            records += [{"dataset": dataset.name, "score": score, "rows": scores[score]} for score in sorted(scores)]
    return make("scores", records)


def tabulate_content(pools: Iterable[Pool]) -> "DataFrame":
    """Per pool: traits and frequent first verbs, as rows and shares (0 to 1) of the k longest and of the whole pool."""
    records = []
    for pool in pools:
        chosen, whole = _count_content(pool.longest.rows), _count_content(pool.counted.rows)
        found = [("trait", trait) for trait in TRAITS]
        for counts in (chosen, whole):
            verbs = sorted((-rows, key) for key, rows in counts.items() if key[0] == "first verb" and key[1])
            found += [key for _, key in verbs[:12]]
        for kind, value in dict.fromkeys(found):
            here, there = chosen[kind, value], whole[kind, value]
            about = {"pool": pool.counted.name, "selection": pool.longest.name, "kind": kind, "value": value}
            shares = {"share_selection": _round(here / len(pool.longest.rows))}
            shares["share_pool"] = _round(there / len(pool.counted.rows))
            records.append({**about, "in_selection": here, "in_pool": there, **shares})
    return make("content", records)


def _count_content(rows: Sequence[Row]) -> Counter[tuple[str, str]]:
    counts = Counter(("trait", trait) for row in rows for trait in find_traits(row))
    counts.update(("first verb", first_verb(row.instruction)) for row in rows)
    return counts


# Terminal punctuation, or a sign that closes a quotation, a bracket, a line of code or a tag.
_FINISHED = re.compile(r"""[.!?:;"'”’)\]}>`]\s*\Z""")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)

TRAITS = {
    "has an input": lambda row: bool(row.input),
    "unfinished end": lambda row: not _FINISHED.search(row.response),
    "holds a list": lambda row: len(_LIST_ITEM.findall(row.response)) >= 2,
    "repeats itself": lambda row: repeated_share(row.response) > 0.2,
}
"""What is looked for in a row. Unfinished: the response ends without terminal punctuation or a closing sign."""


def find_traits(row: Row) -> list[str]:
    """The traits that a row has."""
    return [trait for trait, holds in TRAITS.items() if holds(row)]


def repeated_share(text: str, size: int = 8) -> float:
    """Share (0 to 1) of a text's word 8-grams that occurred earlier in it."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _round(value: float) -> float:
    return round(float(value), 4)
