"""What README and docs name is there: files of the project, commands, and links."""

import re
from collections import Counter

import nbformat
import pytest

from nbutils import REPOSITORY, ROOT
from nbutils.claims import page, settle
from nbutils.core import tables

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORMER = "## Old and new names"
"""Behind this heading docs/decisions.md names what is gone."""


def text_of(path):
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    return path.read_text(encoding="utf-8").partition(FORMER)[0]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_files_and_commands_that_are_named_exist(path):
    text = text_of(path)
    files = re.findall(
        r"(?<![\w/.])(?:nbutils|tests|profiles|data|benchmarks|docs)/[\w/.-]+\.(?:py|toml|md|csv|smk|yaml)\b", text
    )
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = [
        name.replace(".", "/") for name in re.findall(r"(?:python -m|from|import) (nbutils(?:\.[a-z_]+)*)", text)
    ]
    assert [name for name in modules if not (ROOT / name).is_dir() and not (ROOT / f"{name}.py").is_file()] == []
    commands = [name.replace(".", "/") for name in re.findall(r"python -m (nbutils\.[a-z_.]+)", text)]
    assert [name for name in commands if not is_command(name.strip("/"))] == []


def is_command(name):
    file = next((path for path in (ROOT / name / "__main__.py", ROOT / f"{name}.py") if path.is_file()), None)
    return file is not None and 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text_of(path))
    assert [link for link in links if not (path.parent / link).exists()] == []


def slug(heading):
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_anchors_are_headings(path):
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", text_of(path)):
        there = (path.parent / link) if link else path
        headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in map(slug, headings), f"{link}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_picture_says_what_it_shows(path):
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text_of(path))
    assert [target for words, target in pictures if len(words.split()) < 3] == []
    assert [target for _, target in pictures if "://" in target and "colab-badge" not in target] == []


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_nothing_but_a_badge_leads_to_the_repository_that_has_no_home_yet(path):
    text = re.sub(r"\[!\[Open In Colab\]\([^)]*\)\]\([^)]*\)", "", text_of(path))
    links = re.findall(r"\]\((https?://[^)]*)\)|<(https?://[^>]*)>", text)
    assert [link for pair in links for link in pair if REPOSITORY in link] == []


def test_every_page_can_be_reached_from_the_readme():
    found, rest = set(), [ROOT / "README.md"]
    while rest:
        one = rest.pop()
        found.add(one)
        links = re.findall(r"\]\(([^)#:\s]+\.md)(?:#[\w-]*)?\)", text_of(one))
        rest += {(one.parent / link).resolve() for link in links} - found
    assert [path.name for path in PAGES if path.resolve() not in found] == []


def cells_of(text):
    """The rows of a page's first table, without its head."""
    table = re.search(r"^\|.*(?:\n\|.*)*", text, re.MULTILINE)[0].splitlines()
    return [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_readme_opens_with_what_holds_and_its_numbers_are_those_of_the_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("## What holds") < text.index("![Notebook") < text.index("make demo") < text.index("## Ways in")
    settled = {item.claim.id: item for item in settle.settle()}
    rates = tables.read(ROOT / "figures" / "tables" / "independent.csv").query("what == 'headline'")
    by_pair = rates.set_index(["arm", "other"]).to_dict("index")
    longest, refined, rated, whole = "alpaca-1k-longest", "alpaca-1k-longest-refined", "alpaca-1k-score", "alpaca-52k"
    rows = dict(zip(("D1", "P1", "P2", "L4", "M2"), cells_of(text), strict=True))
    for claim, row in rows.items():
        assert row[4] == settled[claim].verdict
    # Both columns in one unit: a net win of 57 points beside a share of 58% would look like the same number.
    for claim in ("P1", "P2"):
        weakest = min(settled[claim].published, key=lambda number: number.value)
        rate, *bounds = (0.5 + bound / 200 for bound in (weakest.value, weakest.low, weakest.high))
        assert rows[claim][1] == f"{rate:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]" and weakest.judge == "GPT-4"
    assert f"net win of {settled['P1'].published[0].value:.1f}" in " ".join(text.split())
    assert rows["M2"][1] == "MT-Bench " + " ".join(page.show_number(settled["M2"].published)[:2])
    assert rows["P1"][2] == interval(by_pair[longest, whole], "raw")
    assert rows["P2"][2] == interval(by_pair[longest, rated], "raw")
    over_rated, over_whole = (interval(by_pair[longest, other], "equal") for other in (rated, whole))
    assert rows["L4"][2] == f"{over_rated} over AlpaGasus-1k, {over_whole} over all rows, at equal length"
    both = [interval(by_pair[refined, longest], name) for name in ("raw", "equal")]
    assert rows["M2"][2] == "; at equal length ".join(both)
    assert settled["L4"].published == [] and rows["L4"][1] == "no number"
    (found,) = (fact for fact in settled["D1"].facts if fact.quantity.startswith("ids shared"))
    assert found.holds and rows["D1"][3] == f"{found.measured:,.0f} of 1,000 ids"
    counts = Counter(item.verdict for item in settled.values())
    said = " ".join(text.split())
    assert f"Of {len(settled)} claims {counts[settle.REPRODUCED]} are reproduced here" in said
    assert f"support {counts[settle.SUPPORTED]} and leave {counts[settle.UNCLEAR]} undecided" in said
    assert f"{counts[settle.NOT_RUN]} wait" in said and ("none failed" in said) == (not counts[settle.FAILED])
    reproduced = {name for name, item in settled.items() if item.verdict == settle.REPRODUCED}
    assert reproduced == {"S3", *(name for name in settled if name.startswith("D"))}
    # What was not measured here is not said to be.
    assert [rows[claim][3] for claim, item in settled.items() if claim in rows and not item.here] == ["not run"] * 4


def test_the_readmes_picture_is_small():
    (picture,) = (ROOT / "docs" / "images").glob("*.png")
    assert picture.stat().st_size <= 150_000


def interval(row, name):
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


SAID = {"alpaca-1k-longest": "longest", "alpaca-1k-longest-refined": "refined", "alpaca-1k-score": "AlpaGasus"}
SAID |= {"alpaca-1k-random": "random", "alpaca-52k": "Alpaca-52k"}


def test_the_numbers_of_the_evidence_are_those_of_its_tables():
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    lines, folder = set(text.splitlines()), ROOT / "figures" / "tables"
    rates = tables.read(folder / "independent.csv")
    without = rates[rates.what.str.startswith("without ")]
    by_pair = dict(list(without.groupby(["arm", "other"])["equal"]))
    for row in rates[rates.what == "headline"].to_dict("records"):
        left = by_pair[row["arm"], row["other"]]
        cells = [interval(row, name) for name in ("raw", "equal", "difference")]
        cells.append(f"{left.min():.2f} to {left.max():.2f}")
        assert f"| {SAID[row['arm']]} over {SAID[row['other']]} | {' | '.join(cells)} |" in lines
    shown = [("alpaca-1k-longest", "alpaca-52k"), ("alpaca-1k-longest-refined", "alpaca-1k-longest")]
    for what, mine in rates[~rates.what.str.startswith(("without", "headline"))].groupby("what"):
        found = mine.set_index(["arm", "other"]).loc[shown].to_dict("records")
        cells = [interval(row, name) for row in found for name in ("raw", "equal")]
        assert f"| {what} | {found[0]['files']} | {' | '.join(cells)} |" in lines
    files = tables.read(folder / "independent-files.csv")
    for row in files.to_dict("records"):
        counts = f"{row['read']} of {row['calls']} | {row['win']}, {row['tie']}, {row['lose']} | {row['win_rate']:.2f}"
        lengths = f"{row['mean_length']:.0f} against {row['opponent_mean_length']:.0f}"
        assert f"{row['prompt']} | {counts} | {lengths} |" in text
    words = " ".join(text.split())
    unread = files.calls.sum() - files.read.sum()
    assert f"{files.calls.sum():,} replies" in words and f"{files.read.sum():,} are read and {unread} are not" in words
    assert (
        f"{files.fastchat_errors.sum()} are errors to FastChat as well; of the {files.otherwise.sum()} others" in words
    )
    same = tables.read(folder / "independent-same.csv").groupby("arm")["same"].max()
    said = f"{same['alpaca-1k-longest']} (longest), {same['alpaca-1k-score']} (AlpaGasus) and {same['alpaca-52k']} (Alp"
    assert said in words and same["tacos"] == same["tacos-what"] == 80
    alone = rates[(rates.what == "without myprompt-longest") & (rates.arm == "alpaca-1k-longest-refined")].iloc[0]
    assert f"{interval(alone, 'equal')} by the ratio and {interval(alone, 'difference')} by the difference" in words
    for row in tables.read(folder / "independent-lengths.csv").query("variant == ''").to_dict("records"):
        if row["arm"] in SAID:
            assert f"{row['turn_1']:.0f}, {row['turn_2']:.0f} |" in text
