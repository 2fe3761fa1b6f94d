"""What a rewriting changed, and which rewritings are shown."""

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils import refine
from nbutils.widgets import rewrites
from nbutils.widgets.rewrites import Change, compare

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "<i>"]), max_size=25).map(" ".join)


def words_of(changes, *kinds):
    return [word.strip() for change in changes if change.kind in kinds for word in change.words]


@given(WORDS, WORDS)
def test_the_kept_and_the_deleted_are_the_original_and_the_kept_and_the_inserted_the_rewriting(before, after):
    changes = compare(before, after)
    assert words_of(changes, "kept", "deleted") == before.split()
    assert words_of(changes, "kept", "inserted") == after.split()


def test_changes_in_reading_order():
    changes = compare("Heat the oven to 200 degrees.\nBake it now.", "Heat the oven to 180 degrees.\nBake it slowly.")
    assert changes == [
        Change("kept", ["Heat", " the", " oven", " to"]),
        Change("deleted", [" 200"]),
        Change("inserted", [" 180"]),
        Change("kept", [" degrees.", "\nBake", " it"]),
        Change("deleted", [" now."]),
        Change("inserted", [" slowly."]),
    ]


def test_a_stray_word_in_common_does_not_break_a_change():
    changes = compare("one two three four five six the seven", "eins zwei drei vier the acht")
    assert [change.kind for change in changes] == ["deleted", "inserted"]


@pytest.mark.parametrize(("before", "after", "kept"), [("a b c d", "a b c d", 1), ("a b c d", "x", 0), ("", "x", 0)])
def test_share_kept(before, after, kept):
    assert rewrites.share_kept(before, after) == kept
    assert rewrites.share_kept("a b c d e f g h", "a b c d e f x y") == 0.75


def test_marks_do_not_rest_on_colour_and_texts_are_escaped():
    shown = rewrites.show_changes("keep these three words <script>old</script>", "keep these three words <b>new</b>")
    assert re.sub(' style="[^"]*"', "", shown) == (
        "<span>keep these three words</span> <del>&lt;script&gt;old&lt;/script&gt;</del> "
        "<ins>&lt;b&gt;new&lt;/b&gt;</ins>"
    )
    (deleted,), (inserted,) = (re.findall(f'<{tag} style="([^"]*)"', shown) for tag in ("del", "ins"))
    assert "line-through" in deleted and "underline" in inserted


def test_an_empty_line_between_changes_stays():
    shown = rewrites.show_changes("keep these three words old", "keep these three words\n\nnew")
    bare = re.sub(' style="[^"]*"', "", shown)
    assert bare == "<span>keep these three words</span> <del>old</del><br><br><ins>new</ins>"


def test_of_a_long_run_the_beginning_is_shown():
    assert rewrites.show_changes("", " ".join("abcdefgh"), 3).endswith(">a b c</ins> … (5 more words)")


# --- which are shown -----------------------------------------------------------------------------------------------


def make(*rows):
    columns = ["id", "original", "refined", "words_before", "words_after", "flags"]
    return pd.DataFrame(rows, columns=columns).assign(instruction="Say <it>.")


EIGHT = "a b c d e f g h"


def test_good_ones_keep_about_three_quarters_and_raise_no_flag():
    frame = make(
        (1, EIGHT, EIGHT, 8, 8, ""),
        (2, EIGHT, "a b c d e f x y", 8, 8, ""),
        (3, EIGHT, "a b c d e f x y", 8, 8, "critique"),
        (4, EIGHT, "a b c d e f x y", 8, 80, ""),
        (5, EIGHT, "x", 8, 8, ""),
        (6, EIGHT, "a b c d e x y z", 8, 8, ""),
    )
    good = rewrites.choose_good(frame, 3)
    assert good["id"].tolist() == [2, 6, 1]
    assert good["why"].tolist() == [f"no flag; {share}% of the words kept" for share in (75, 62, 100)]


def test_of_each_kind_of_flag_the_one_that_changed_its_length_most():
    frame = make(
        (1, "a", "b", 100, 90, "critique"),
        (2, "a", "b", 100, 20, "critique, shorter"),
        (3, "a", "b", 100, 30, "shorter"),
        (4, "a", "b", 100, 10, "shorter"),
        (5, "a", "b", 100, 900, "longer"),
        (6, "a", "b", 100, 100, ""),
    )
    wrong = rewrites.choose_wrong(frame)
    assert sorted(wrong["id"]) == [2, 4, 5]
    assert wrong.set_index("id").loc[2, "why"] == "flagged: critique, shorter"


def test_a_row_is_shown_with_its_facts_escaped():
    frame = make((1652, "<u>one</u>", "two", 1, 1, "")).assign(why="<why>")
    shown = rewrites.Changes(frame)._repr_html_()
    assert "<b>Row 1,652</b> · 1 → 1 words · &lt;why&gt;" in shown
    assert "Say &lt;it&gt;." in shown and "<u>" not in shown


def test_without_the_published_files_there_is_nothing_to_show(no_data):
    published = refine.published_rewrites(3.0)
    good, wrong = rewrites.choose_good(published), rewrites.choose_wrong(published)
    assert len(published) == len(good) == len(wrong) == 0
    assert rewrites.Changes(good)._repr_html_() == "<p>None at hand.</p>"


def test_the_papers_rewritings(mirror, runs):
    published = refine.published_rewrites(3.0)
    assert len(published) == 1000
    counts = {flag: int(published["flags"].str.contains(flag).sum()) for flag in refine.FLAGS}
    assert counts == {"critique": 35, "markers": 1, "unclosed": 0, "longer": 2, "shorter": 24}
    assert published[["words_before", "words_after"]].mean().round(1).tolist() == [256.8, 244.3]
    assert rewrites.choose_good(published)["id"].tolist() == [36436, 4308, 24448]
    wrong = rewrites.choose_wrong(published)
    assert dict(zip(wrong["id"], wrong["flags"], strict=True)) == {
        40315: "critique, shorter",
        15682: "shorter",
        27426: "longer",
    }
