"""Notebook 04: the loss curve while a model trains, its sample answers epoch by epoch, settings and facts in words."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils import arms
from nbutils.core.machine import running_shell
from nbutils.core.settings import Profile
from nbutils.core.tables import plain, show_note
from nbutils.figures import results
from nbutils.widgets.answers import CELL, EVEN, QUIET, show_text
from nbutils.widgets.live import Live

if TYPE_CHECKING:
    from pandas import DataFrame

SECONDS_BETWEEN_DRAWINGS = 3.0
"""A drawing takes about a quarter of a second, of which training is to lose less than a tenth."""


class LiveCurve:
    """What `finetune.run` is given as `watch`: the loss curve, and under it what the model answers by now.

    Both are drawn anew as training goes on; outside of a notebook nothing is shown. `finish` draws the whole curve.
    """

    def __init__(self, profile: str, arm: str):
        chosen, name = arms.prepare(profile, arm)
        self.arm, self.note = arms.parse_arm(name).trained, chosen.note
        self.shown: dict[str, Any] = {}
        self.last = float("-inf")

    def __call__(self, losses: "DataFrame", samples: Sequence[Mapping[str, Any]], steps: int) -> None:
        """Draw what there is of so many steps, now and then."""
        if running_shell() is None or len(losses) < 2 or time.monotonic() - self.last < SECONDS_BETWEEN_DRAWINGS:
            return
        self._show("curve", results.draw_losses({self.arm: losses}, self.note, steps))
        if samples:
            self._show("answers", show_newest(samples))
        self.last = time.monotonic()

    def finish(self, losses: "DataFrame") -> None:
        """Draw the whole curve; the answers go, which a notebook shows epoch by epoch below."""
        self._show("curve", results.draw_losses({self.arm: losses}, self.note))
        if "answers" in self.shown:
            self._show("answers", "")

    def _show(self, name: str, drawn: Any) -> None:
        from IPython.display import HTML, display

        what = HTML(drawn) if isinstance(drawn, str) else drawn
        if name in self.shown:
            self.shown[name].update(what)
        elif running_shell() is not None:
            # An output that is replaced, and no widget: an executed notebook keeps its last state.
            self.shown[name] = display(what, display_id=True)


def show_newest(samples: Sequence[Mapping[str, Any]]) -> str:
    """The last epoch's answers as HTML."""
    import pandas as pd

    frame = pd.DataFrame(list(samples))
    return _lay_out(frame[frame["epoch"] == frame["epoch"].max()])


def browse_samples(samples: "DataFrame", note: str = "") -> Live:
    """A slider over epochs: what the model answers by then, beside what it answered before the first step.

    samples: the rows of `samples.jsonl`; without any, a line that says so.
    """
    import ipywidgets

    if samples.empty:
        return Live(lambda: "<p>No sample answers were asked for (<code>training.sample_prompts</code>).</p>", {})
    epochs = {f"{epoch:g}": epoch for epoch in sorted(samples["epoch"].unique())}
    slider = ipywidgets.SelectionSlider(options=list(epochs), value=list(epochs)[-1], description="epoch")
    first = samples[samples["epoch"] == 0]

    def draw(epoch: str) -> str:
        return _lay_out(samples[samples["epoch"] == epochs[epoch]], before=first, lengths=samples) + show_note(note)

    return Live(draw, {"epoch": slider})


def _lay_out(answers: "DataFrame", before: "DataFrame | None" = None, lengths: "DataFrame | None" = None) -> str:
    """One row a prompt: what was answered `before`, the answers, and how many tokens the answers of all epochs had."""
    columns = [answers] if before is None or before.empty or answers["epoch"].iloc[0] == 0 else [before, answers]
    names = [f"at epoch {part['epoch'].iloc[0]:g}" if part["epoch"].iloc[0] else "before training" for part in columns]
    rows = ["".join(f'<th style="{CELL}">{name}</th>' for name in ("prompt", *names))]
    for prompt in answers["prompt"]:
        texts = [show_text(prompt)]
        if lengths is not None:
            tokens = lengths[lengths["prompt"] == prompt].sort_values("step")["n_tokens"]
            texts[0] += f'<p style="{QUIET}">tokens, epoch by epoch: {" · ".join(map(str, tokens))}</p>'
        texts += ["".join(map(_show_answer, part[part["prompt"] == prompt].to_dict("records"))) for part in columns]
        rows.append("".join(f'<td style="{CELL}">{text}</td>' for text in texts))
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div style="overflow-x: auto"><table style="{EVEN}">{lines}</table></div>'


def _show_answer(answer: Mapping[str, Any]) -> str:
    end = "ended by itself" if answer["stopped"] else "cut"
    return f"{show_text(answer['response'] or '(empty)')}<p style='{QUIET}'>{answer['n_tokens']} tokens, {end}</p>"


# --- settings and facts in words ----------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, str]] = {
    "method": {"method": "what is trained", "prompt_style": "template of prompts"},
    "rows": {
        "max_rows": "rows of the arm at most",
        "max_length": "tokens of a row at most",
        "loss_weighting": "what counts alike in the loss",
    },
    "steps": {
        "epochs": "passes over the rows",
        "examples_per_step": "examples of a step",
        "epoch_end": "rows left over at an epoch's end",
    },
    "learning rate": {
        "learning_rate": "highest",
        "schedule": "course",
        "warmup_ratio": "share of the steps in which it rises",
    },
    "optimizer": {
        "optimizer": "name",
        "weight_decay": "weight decay",
        "beta1": "beta 1",
        "beta2": "beta 2",
        "max_grad_norm": "gradients are cut at",
    },
    "adapter": {"lora_rank": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"},
    "noise on embeddings": {"neftune_alpha": "NEFTune's alpha", "neftune_scale": "length that scales it"},
    "memory and speed": {
        "tokens_per_row": "tokens of a flat row at most",
        "gradient_checkpointing": "gradient checkpointing",
        "fused_kernels": "fused kernels",
    },
    "kept and looked at": {
        "save_steps": "steps between checkpoints",
        "checkpoints_kept": "checkpoints kept",
        "sample_prompts": "sample prompts answered after every epoch",
        "sample_tokens": "tokens of a sample answer at most",
    },
}
"""The fields of `Training` under headings, each in words."""

METHODS = {
    "qlora": "a LoRA adapter on a base model in four bits (NF4)",
    "lora": "a LoRA adapter on the base model as it is",
    "full": "all weights",
}
UNSET = {"max_rows": "all", "tokens_per_row": "as many as fit", "neftune_alpha": "none"}

FACTS: dict[str, dict[str, str]] = {
    "rows": {
        "rows": "trained on",
        "truncated_rows": "cut at the longest length",
        "dropped_rows": "left out: their prompt fills that length",
        "empty_responses": "with an empty response",
        "mean_length": "mean length of the rewritten responses",
        "measure": "measure of that length",
    },
    "tokens of an epoch": {"tokens_per_epoch": "read", "trained_tokens_per_epoch": "that add to the loss"},
    "steps": {"epochs": "passes over the rows", "optimizer_steps": "updates", "optimizer": "optimizer"},
    "loss, nats a token": {
        "uniform_loss": "of a uniform guess",
        "first_loss": "mean of the first quarter of the steps",
        "last_loss": "mean of the last quarter",
    },
    "time": {
        "train_seconds": "seconds of training",
        "estimated_seconds": "estimated, for a model that fills the device",
    },
    "memory": {"peak_memory_gb": "GB at most, of the whole process", "estimated_gb": "GB estimated for the model"},
    "machine": {"device": "device", "dtype": "numbers", "processes": "processes"},
    "base model": {
        "base_commit": "commit on the Hub",
        "padding": "token that pads",
        "sampling": "sampling that it ships with, used nowhere here",
    },
}
"""The facts of a training's manifest under headings, each in words."""

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")


def tabulate_settings(profile: Profile) -> "DataFrame":
    """How a profile trains, in words: `about`, `setting`, `value`, and the `key` under `[training]` that sets it."""
    given = profile.training.model_dump()
    unused = {"adapter"} if given["method"] == "full" else set()
    unused |= set() if given["neftune_alpha"] else {"noise on embeddings"}
    values = {key: UNSET.get(key, "none") if value is None else value for key, value in given.items()}
    values["method"] = METHODS[given["method"]]
    found = list(_in_words({about: words for about, words in SETTINGS.items() if about not in unused}, values))
    if profile.method_reason:
        reason = {"about": "method", "setting": "why so", "value": profile.method_reason, "key": "method_reason"}
        found.insert(1, reason)
    return _frame(found, ["about", "setting", "value", "key"])


def tabulate_facts(facts: Mapping[str, Any]) -> "DataFrame":
    """What a training's manifest says of it, in words: `about`, `fact`, `value`; without what it does not say."""
    shipped = facts.get("base_generation") or {}
    sampling = ", ".join(f"{name} {plain(shipped[name])}" for name in SAMPLING if shipped.get(name) is not None)
    known = dict(facts) | dict(facts.get("precision") or {}) | {"sampling": sampling or "none"}
    found = _in_words(FACTS, {key: value for key, value in known.items() if value is not None})
    return _frame(found, ["about", "setting", "value"]).rename(columns={"setting": "fact"})


def _in_words(headings: Mapping[str, Mapping[str, str]], values: Mapping[str, Any]) -> "Iterator[dict[str, Any]]":
    for about, words in headings.items():
        for key, setting in words.items():
            if key in values:
                yield {"about": about, "setting": setting, "value": values[key], "key": key}


def _frame(records: "Iterator[dict[str, Any]] | Sequence[dict[str, Any]]", columns: Sequence[str]) -> "DataFrame":
    import pandas as pd

    return pd.DataFrame(list(records), columns=list(columns), dtype=object)


def under_headings(table: "DataFrame") -> "DataFrame":
    """Such a table to look at: what `about` says stands on the first of its rows only, and values are texts."""
    once = table["about"].where(~table["about"].duplicated(), "")
    return table.assign(about=once, value=table["value"].map(plain))
