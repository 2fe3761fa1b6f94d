"""A finished run of any size without any model: answers and reviews as given, everything else small and made up."""

import json

from nbutils.analysis import answer_facts, comparison, verdicts
from nbutils.core import disk, settings, tables
from nbutils.core.manifests import Manifest
from nbutils.generation.measures import describe_answers
from nbutils.judging import replies
from nbutils.report import Found

ARM, BASELINE = "alpaca-1k-longest", "alpaca-1k-random-7"
FACTS = {
    "select": {
        "rows": 1000,
        "pool_rows": 52002,
        "measure": "nltk_words",
        "mean_length": 256.838,
        "threshold": 192,
        "trained_tokens": 324720,
        "ids_sha256": "b6691885e9c95649",
    },
    "finetune": {
        "method": "qlora",
        "rows": 64,
        "truncated_rows": 0,
        "trained_tokens_per_epoch": 26368,
        "epochs": 2.0,
        "optimizer_steps": 16,
        "first_loss": 3.5,
        "last_loss": 3.0,
        "train_seconds": 1.0,
    },
    "generate": {"answers": 2, "mean_tokens": 10.0, "eos_rate": 0.5},
}


def make_profile(**changes):
    """The profile tiny with some fields changed."""
    return settings.load_profile("tiny").model_copy(update=changes)


def make_answers(arm, texts, prompts, test_set="sample"):
    return [
        {
            "id": str(number),
            "test_set": test_set,
            "prompt": prompt,
            "response": text,
            "arm": arm,
            "n_tokens": len(text.split()),
            "finish_reason": "stop",
        }
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def make_judgments(mine, theirs, reviews, name="reference"):
    """Judgment rows of both orders; reviews: one (arm first, baseline first) pair of texts per answer."""
    rows = []
    for answer, other, both in zip(mine, theirs, reviews, strict=True):
        for order, review in zip(verdicts.ORDERS, both, strict=True):
            head = {"id": answer["id"], "test_set": answer["test_set"], "arm": answer["arm"], "baseline": other["arm"]}
            sizes = {"len_arm": len(answer["response"]), "len_baseline": len(other["response"]), "measure": "chars"}
            scored = replies.score_review(review, order)
            rows.append({**head, "judge": name, "order": order, **scored, "review": review, **sizes})
    return rows


def write_run(folder, mine, theirs, judgments, explored):
    """Write the files that a report reads; explored: the folder of stage 01's tables. Returns a report.Found."""
    made = {"explore": manifest("explore", "all", explored)}
    for arm, answers in ((mine[0]["arm"], mine), (theirs[0]["arm"], theirs)):
        for stage, facts in FACTS.items():
            made[f"{stage} {arm}"] = manifest(stage, arm, folder / stage / arm, facts)
        write_jsonl(folder / "generate" / arm / "answers.jsonl", answers)
        tables.write(folder / "finetune" / arm / "loss.csv", [{"step": 1, "loss": 3.5}, {"step": 2, "loss": 3.0}])
    target = mine[0]["arm"]
    for stage in ("judge", "length_bias"):
        made[f"{stage} {target}"] = manifest(stage, target, folder / stage)
    write_jsonl(folder / "judge" / "judgments.jsonl", judgments)
    tables.write(folder / "judge" / "summary.csv", verdicts.summarise(judgments))
    tables.write(folder / "length_bias" / "length_bias.csv", comparison.analyse(judgments))
    facts = [(answers[0]["arm"], (tables.make("likelihoods"), describe_answers(answers))) for answers in (mine, theirs)]
    tables.write(folder / "length_bias" / "answer_measures.csv", answer_facts.compare(*facts))
    return Found(made, target)


def write_jsonl(path, records):
    """JSON lines in ASCII, as foreign tools write them: they may hold halves of surrogate pairs."""
    disk.write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def manifest(stage, arm, folder, facts=None):
    made = {"created": "2026-01-01T00:00:00+00:00", "versions": {"python": "3.11"}, "git": "unknown", "seconds": 1.0}
    plan = {"stage": stage, "profile": "tiny", "arm": arm, "seed": 42, "key": "0" * 64}
    return Manifest(**plan, **made, settings={}, inputs={}, outputs={}, facts=facts or {}, folder=folder)
