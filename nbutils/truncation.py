"""The truncated counterfactual: both answers to a prompt cut to one length, to be judged again.

    python -m nbutils.truncation ANSWERS_A ANSWERS_B -o DIR

Writes DIR/a.jsonl and DIR/b.jsonl, which `python -m nbutils.judge` takes; `python -m nbutils.length_bias JUDGMENTS
--cut CUT_JUDGMENTS` then says what the cut cost. What a cut answer loses is length and its ending at once, so a drop is
an upper bound of what length alone was worth.
"""

import contextlib
import re
from pathlib import Path
from typing import Any

from nbutils import artifacts, generate, judge, judges
from nbutils.errors import ArgumentParser, exits_cleanly
from nbutils.judge import Pair, match_answers
from nbutils.llm import Ledger
from nbutils.settings import Profile


def cut_to(text: str, characters: int) -> str:
    """The text's longest beginning of whole sentences within so many characters, else of whole words, else of all."""
    if len(text) <= characters:
        return text
    head = text[: characters + 1]  # one more, to see whether a word ends there
    for end in (r"[.!?][\"')\]]*(?=\s)", r"\S(?=\s)"):
        places = [found.end() for found in re.finditer(end, head)]
        if places and places[-1] >= characters / 2:
            return text[: places[-1]]
    return text[:characters]


def cut_pair(pair: Pair) -> Pair:
    """The pair with its longer answer cut to the length of the shorter one."""
    shorter = min(len(pair.answer), len(pair.baseline_answer))
    return pair._replace(answer=cut_to(pair.answer, shorter), baseline_answer=cut_to(pair.baseline_answer, shorter))


def judge_cut(profile: Profile, arm: str, seed: int) -> list[dict[str, Any]]:
    """Judgments of an arm's cut answers against every baseline, by those of the profile's judges that need no service.

    Judges that are paid for are never asked again unbidden: for them there are the commands above.
    """
    asked = [each for each in profile.judging.judges if each.kind in judges.CONTROLS]
    answers = {
        side: generate.load_answers(generate.run(profile, side, seed)) for side in {arm, *profile.judging.baselines}
    }
    references = judge.load_references(profile.generation.test_sets)
    rows = []
    with contextlib.closing(Ledger(artifacts.runs_folder() / profile.name / "ledger.sqlite")) as ledger:
        for baseline in profile.judging.baselines:
            pairs = [cut_pair(pair) for pair in match_answers(answers[arm], answers[baseline], references)]
            for each in asked:
                rows += judge.judge_pairs(pairs, each, ledger)
    return rows


def cut_files(mine: Path, theirs: Path, out: Path) -> dict[str, Any]:
    """Match two answer files, cut every pair, write both sides. Returns counts; errors as of `match_answers`."""
    from nbutils.judge_files import read_answers

    pairs = match_answers(read_answers(mine), read_answers(theirs), {})
    cut = [cut_pair(pair) for pair in pairs]
    artifacts.write_jsonl(out / "a.jsonl", [_answer(pair, pair.arm, pair.answer) for pair in cut])
    artifacts.write_jsonl(out / "b.jsonl", [_answer(pair, pair.baseline, pair.baseline_answer) for pair in cut])
    before = zip(pairs, cut, strict=True)
    return {"prompts": len(cut), "target_cut": sum(old.answer != new.answer for old, new in before)}


def _answer(pair: Pair, arm: str, response: str) -> dict[str, Any]:
    return {"id": pair.id, "test_set": pair.test_set, "prompt": pair.prompt, "arm": arm, "response": response}


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.truncation`."""
    parser = ArgumentParser(prog="python -m nbutils.truncation", description="Cut both answers to one length.")
    parser.add_argument("answers_a", metavar="ANSWERS_A", type=Path, help="answers of the target (JSONL)")
    parser.add_argument("answers_b", metavar="ANSWERS_B", type=Path, help="answers of the baseline (JSONL)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for a.jsonl and b.jsonl")
    given = parser.parse_args(arguments)
    counts = cut_files(given.answers_a, given.answers_b, given.out)
    print(f"{counts['prompts']} pairs in {given.out}, the target's answer cut in {counts['target_cut']} of them")


if __name__ == "__main__":
    main()
