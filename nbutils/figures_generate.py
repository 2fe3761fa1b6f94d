"""The figure of stage 05: how long the answers of an arm and its variants are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbutils import style
from nbutils.arms import parse_arm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (style.VERMILION, style.BLUE, style.GREEN, style.PURPLE, style.GREY)
LABEL_HEIGHT = 8.0
"""Height of a label, in percent of the axis."""


def draw_lengths(answers: Mapping[str, Sequence[dict[str, Any]]], cap: int, note: str = "") -> "Figure":
    """Share of the answers that have ended by each length in tokens, one line per arm or variant, named at its end.

    cap: tokens at which answers are cut; what a line lacks to 100% there was cut.
    """
    import matplotlib.pyplot as plt

    caption = f"Share of the answers that the model had ended itself by each length. They are cut at {cap:,} tokens."
    with plt.rc_context(style.STYLE):
        axes = style.make_page(2.6, "How long the answers are", caption, note, 0.7, 2.4, 0.4)
        curves = {name: ended_by(written, cap) for name, written in answers.items()}
        places = spread([shares[-1] for _, shares in curves.values()])
        for (name, (lengths, shares)), place, colour in zip(curves.items(), places, COLOURS, strict=False):
            axes.step(lengths, shares, where="post", color=colour, linewidth=1.8, clip_on=False)
            axes.text(cap * 1.015, place, _label(name), color=colour, va="center")
        axes.set(xlabel="tokens", ylabel="% ended", xlim=(0, cap), ylim=(0, 102))
        plt.close(style.page_of(axes))  # else a notebook would show it twice
    return style.page_of(axes)


def ended_by(written: Sequence[dict[str, Any]], cap: int) -> tuple[list[int], list[float]]:
    """Lengths in tokens, and the percentage of the answers that had ended by themselves at each; both end at `cap`."""
    ended = sorted(each["n_tokens"] for each in written if each["finish_reason"] == "stop")
    shares = [100 * count / len(written) for count in range(len(ended) + 1)]
    return [0, *ended, cap], [*shares, shares[-1]]


def spread(wanted: Sequence[float]) -> list[float]:
    """Places of labels, each at or above the one it wants, so that none covers another."""
    places, lowest = [0.0] * len(wanted), float("-inf")
    for number in sorted(range(len(wanted)), key=lambda number: wanted[number]):
        places[number] = max(wanted[number], lowest)
        lowest = places[number] + LABEL_HEIGHT
    return places


def _label(name: str) -> str:
    arm = parse_arm(name)
    return style.name_of(arm.trained) + arm.suffixes.variant
