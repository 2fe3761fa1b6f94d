"""A run's notebooks as pages: what is shown, where links lead, and that a page asks nobody and runs nothing."""

import base64
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browsing import open_page
from bs4 import BeautifulSoup

from nbutils import ROOT
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.core.tables import Table
from nbutils.execution import pages as cleaning
from nbutils.execution import site

NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
EVIL = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">'
PNG = base64.b64encode((ROOT / "figures" / "token-budget.png").read_bytes()).decode()
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
WIDGETS = {
    "box": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_pane"]}},
    "slider": {"model_name": "IntSliderModel", "state": {"value": 3}},
    "pane": {"model_name": "HTMLModel", "state": {"value": "<b>the first state</b>"}},
}


def output(**data):
    return nbformat.v4.new_output("display_data", {kind.replace("__", "/"): value for kind, value in data.items()})


def execute(folder, stage, name, *outputs, arm=""):
    """An executed notebook: the committed one, with these outputs in its last code cell."""
    made = nbformat.read(ROOT / "notebooks" / f"{stage}.ipynb", as_version=4)
    made.metadata["widgets"] = {STATE: {"state": WIDGETS, "version_major": 2, "version_minor": 0}}
    cell = [cell for cell in made.cells if cell.cell_type == "code"][-1]
    cell.outputs = list(outputs)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `tiny` in which some notebooks were executed."""
    runs = tmp_path_factory.mktemp("runs with spaces")
    notebooks = runs / "tiny" / "notebooks"
    table = Table([{"answer": EVIL}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIM_RUNS", str(runs))
        execute(notebooks, "01_explore", "01_explore-seed-42", output(image__png=PNG, text__plain="<Figure>"))
        for arm in ("alpaca-1k-longest", "alpaca-1k-random-7"):
            execute(notebooks, "02_select", f"02_select-{arm}-seed-42", output(text__html=f"<i>{arm}</i>"), arm=arm)
        told = nbformat.v4.new_output("stream", name="stdout", text=EVIL)
        execute(
            notebooks,
            "05_generate",
            "05_generate-alpaca-1k-longest-seed-42",
            told,
            output(text__plain=EVIL),
            output(text__html=table._repr_html_()),
            output(text__html=EVIL.replace("</pre>", "raw")),
            output(text__html='<img src="https://example.org/x.png" alt="far"><a href="javascript:alert(3)">press</a>'),
        )
        view = {"model_id": "box", "version_major": 2, "version_minor": 0}
        both = nbformat.v4.new_output("display_data", {VIEW: view, "text/html": "<b>drawn beside it</b>"})
        alone = nbformat.v4.new_output("display_data", {VIEW: view, "text/plain": "VBox(children=(...))"})
        execute(notebooks, "06_judge", "06_judge-alpaca-1k-longest-seed-42", both, alone)
        execute(notebooks, "07_length_bias", "07_length_bias-alpaca-1k-longest-seed-42.failed")
        report = runs / "tiny" / "report" / "alpaca-1k-longest" / "seed-42" / "report.html"
        report.parent.mkdir(parents=True)
        report.write_text("<!DOCTYPE html><title>the report</title>", encoding="utf-8")
        folder = runs / "tiny" / "site"
        site.make_site(load_profile("tiny"), folder)
        yield folder


def read(folder, name):
    return BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


# --- what is shown -------------------------------------------------------------------------------------------------


def test_the_index_leads_to_ten_notebooks_in_order_and_to_the_report(run):
    index = read(run, "index")
    items = index.select("main > ol > li")
    assert [item.a["href"] for item in items] == [f"{name}.html" for name in NAMES]
    titles = [nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells[0].source.split("\n")[0] for name in NAMES]
    assert [f"# {item.a.text}" for item in items] == titles
    assert index.select_one("p.report a")["href"] == "report.html"
    assert (run / "report.html").read_text(encoding="utf-8").endswith("the report</title>")


def test_the_targets_notebook_is_the_stages_page_and_others_stand_beside_it(run):
    assert read(run, "02_select").find("i", string="alpaca-1k-longest")
    other = read(run, "02_select-alpaca-1k-random-7-seed-42")
    assert other.find("i", string="alpaca-1k-random-7")
    assert "alpaca-1k-random-7, seed 42" in other.select_one("p.quiet").text
    assert "also alpaca-1k-random-7, seed 42" in read(run, "index").select("main > ol > li")[2].text


def test_where_the_sample_stands_in_its_target_comes_first(runs, no_data):
    for arm in ("sample-60-longest", "sample-60-random-7"):
        execute(runs / "tiny" / "notebooks", "02_select", f"02_select-{arm}-seed-42", arm=arm)
        report = runs / "tiny" / "report" / arm / "seed-42" / "report.html"
        report.parent.mkdir(parents=True)
        report.write_text(arm, encoding="utf-8")
    profile = load_profile("tiny")
    found = site.find_executed(profile)["02_select"]
    assert [each.arm for each in found] == ["sample-60-longest", "sample-60-random-7"]
    assert site.find_report(profile).read_text(encoding="utf-8") == "sample-60-longest"


def test_where_a_notebook_shows_the_report_its_page_says_so():
    framed = '<div><iframe title="report" srcdoc="<b>x</b>"></iframe></div>'
    assert cleaning._parse(framed).get_text() == "(Here stands the report, which has a page of its own.)"


@pytest.mark.parametrize(
    ("name", "is_executed"), [("00_start_here", False), ("01_explore", True), ("07_length_bias", False)]
)
def test_a_notebook_that_was_not_executed_says_so(run, name, is_executed):
    assert bool(read(run, name).select_one("p.note")) is not is_executed


def test_the_set_up_cell_is_folded(run):
    for name in NAMES:
        (folded,) = read(run, name).select("main details")
        assert not folded.has_attr("open")
        assert folded.summary.text.startswith("Set-up: fetches the project")
        assert "importlib" in folded.text


def test_pictures_lie_in_the_page_and_have_a_text(run):
    (picture,) = read(run, "01_explore").select("main img")
    assert picture["src"] == f"data:image/png;base64,{PNG}"
    assert picture["alt"] == "Figure: What should be seen"
    calibration = read(run, "doc-length").select_one('img[alt^="Coverage of the intervals"]')
    assert calibration["src"].startswith("data:image/png;base64,")


def test_in_a_widgets_place_stands_its_first_state(run):
    page = read(run, "06_judge")
    assert page.find("b", string="drawn beside it") and page.find("b", string="the first state")
    assert "VBox" not in page.text


def test_what_a_model_wrote_stays_text(run):
    page = read(run, "05_generate")
    assert page.text.count("<script>alert(1)</script>") == 3  # the stream, the plain text, the table
    assert page.find("script") is None
    assert page.find("img", onerror=True) is None
    assert "far" in page.text and "press" in page.text


# --- alone ---------------------------------------------------------------------------------------------------------


def pages(folder):
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in folder.glob("*.html")}


def test_every_link_leads_somewhere(run):
    found, followed = pages(run), 0
    for name, page in found.items():
        for link in page.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme:
                assert parts.scheme in ("https", "http", "mailto"), (name, link["href"])
                continue
            target = found[parts.path or name]
            assert not parts.fragment or target.find(id=unquote(parts.fragment)), (name, link["href"])
            followed += 1
    assert followed > 300
    assert found["02_select.html"].select_one('main a[href="04_finetune.html"]')
    assert found["02_select.html"].select_one('main a[href="doc-data-forms.html"]')
    assert not [link for page in found.values() for link in page.select('a[href*=".ipynb"]') if ":" not in link["href"]]


def test_no_page_fetches_or_runs_anything(run):
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    for name, page in pages(run).items():
        if name != "report.html":
            assert page.head.find("meta", {"http-equiv": "Content-Security-Policy"})["content"] == policy
            assert page.find_all(["script", "iframe", "link", "object", "embed", "form"]) == []
            assert [
                image["src"][:40] for image in page.find_all(src=True) if not image["src"].startswith("data:image/")
            ] == []


@pytest.mark.system
def test_a_browser_shows_every_page_and_asks_nobody(run):
    with open_page() as (page, asked, complaints):
        for name in ["index", *NAMES, "doc-claims"]:
            page.goto((run / f"{name}.html").as_uri())
            assert min(page.evaluate("[...document.images].map(image => image.naturalWidth)"), default=1) > 0
        page.goto((run / "index.html").as_uri())
        page.get_by_role("link", name="02 · Select: the longest 1,000, to the last row").click()
        page.locator("summary").first.click()
        assert page.get_by_text("importlib.util").first.is_visible()
        page.set_viewport_size({"width": 390, "height": 800})
        for name in ["index", *NAMES]:
            page.goto((run / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    assert asked == complaints == []


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_run_without_notebooks_is_named(runs):
    with pytest.raises(InputError, match=r"notebooks: no executed notebooks: `make run PROFILE=tiny` makes them$"):
        site.make_site(load_profile("tiny"), runs / "site")


@pytest.mark.parametrize(("name", "text"), [("thesis.txt", "kept"), ("index.html", "<title>my home page</title>")])
def test_a_folder_of_something_else_is_left_alone(runs, name, text):
    execute(runs / "tiny" / "notebooks", "01_explore", "01_explore-seed-42")
    (runs / "mine").mkdir()
    (runs / "mine" / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"mine: something else is there already: name another folder$"):
        site.make_site(load_profile("tiny"), runs / "mine")
    assert [path.name for path in (runs / "mine").iterdir()] == [name]
    assert (runs / "mine" / name).read_text(encoding="utf-8") == text


def test_a_torn_notebook_is_named_and_the_last_site_stays(runs):
    torn = runs / "tiny" / "notebooks" / "01_explore-seed-42.ipynb"
    torn.parent.mkdir(parents=True)
    torn.write_text('{"cells": [', encoding="utf-8")
    (runs / "site").mkdir()
    before = "<title>before · long-is-more</title>"
    (runs / "site" / "index.html").write_text(before, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(f"{torn}: not a notebook (")):
        site.make_site(load_profile("tiny"), runs / "site")
    assert [path.name for path in runs.iterdir() if "site" in path.name] == ["site"]
    assert (runs / "site" / "index.html").read_text(encoding="utf-8") == before


@pytest.mark.thorough
def test_the_command_makes_it_again_in_its_place(run):
    before = {path.name for path in run.iterdir()}
    (run / "old.html").write_text("from another time", encoding="utf-8")
    environment = os.environ | {"LIM_RUNS": str(run.parents[1]), "LIM_OFFLINE": "1"}
    command = [sys.executable, "-m", "nbutils.execution.site", "tiny"]
    done = subprocess.run(command, env=environment, cwd=run.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"pages: open {run / 'index.html'}, or put {run} on any web server" in done.stdout
    assert {path.name for path in run.iterdir()} == before


REFRESH = '<meta http-equiv="refresh" content="0; url=https://example.org">'


@pytest.mark.parametrize(
    "hostile",
    [
        REFRESH,
        f"<!-->{REFRESH}-->",
        f"<!--->{REFRESH}-->",
        f"<!-- --!>{REFRESH}-->",
        f"<![CDATA[>{REFRESH}]]>",
        f"<?php >{REFRESH}?>",
        f"<svg><style>{REFRESH}</style></svg>",
        f"<math><style>{REFRESH}</style></math>",
        f"<noscript><p title='</noscript>{REFRESH}'></noscript>",
        f"<xmp><p title='</xmp>{REFRESH}'></xmp>",
        f"<textarea><p title='</textarea>{REFRESH}'></textarea>",
        f"<style><!--</style>{REFRESH}",
    ],
)
def test_no_element_hides_where_a_browser_finds_it_and_the_parser_does_not(hostile):
    """The text of an element that leads away comes to life in no browser: it is gone, or no `<` opens it."""
    shown = str(cleaning._parse(f"<div>{hostile}<i>after</i></div>"))
    assert not re.search(r"<\s*meta", shown, re.IGNORECASE)


def test_a_style_of_a_table_stays():
    assert "td { color: red }" in str(cleaning._parse("<style>td { color: red }</style><p>x</p>"))


@pytest.mark.parametrize(
    "name", ["02_select-a b#c?d%20&e'\"-seed-42", "02_select-<script>-seed-7", "02_select-ü 語-seed-3"]
)
def test_odd_names_lead_to_their_pages(runs, name):
    execute(runs / "tiny" / "notebooks", "01_explore", "01_explore-seed-42")
    execute(runs / "tiny" / "notebooks", "02_select", "02_select-alpaca-1k-longest-seed-42")
    execute(runs / "tiny" / "notebooks", "02_select", name)
    site.make_site(load_profile("tiny"), runs / "site")
    links = [str(link["href"]) for link in read(runs / "site", "index").select("main > ol a")]
    assert f"{name}.html" in [unquote(link) for link in links]
    assert all((runs / "site" / unquote(urlsplit(link).path)).is_file() for link in links)


def test_what_only_looks_like_a_notebook_is_passed_over(runs):
    notebooks = runs / "tiny" / "notebooks"
    execute(notebooks, "01_explore", "01_explore-seed-42")
    (notebooks / "02_select-x-seed-42.ipynb").mkdir()
    (notebooks / "03_refine-x-seed-42.ipynb").symlink_to(runs / "gone")
    written = site.make_site(load_profile("tiny"), runs / "site")
    assert written[0].is_file() and not (runs / "site" / "02_select-x-seed-42.html").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "\ufeff\x00"],
)
def test_what_is_no_notebook_is_named(runs, content):
    path = runs / "tiny" / "notebooks" / "01_explore-seed-42.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(f"{path}: not a notebook (")):
        site.make_site(load_profile("tiny"), runs / "site")
    assert not (runs / "site").exists()


def test_a_widget_that_holds_itself_is_shown_once(runs):
    view = {"model_id": "box", "version_major": 2, "version_minor": 0}
    path = runs / "tiny" / "notebooks" / "06_judge-alpaca-1k-longest-seed-42.ipynb"
    execute(path.parent, "06_judge", path.stem, nbformat.v4.new_output("display_data", {VIEW: view, "text/plain": "x"}))
    made = nbformat.read(path, as_version=4)
    made.metadata["widgets"][STATE]["state"]["box"]["state"]["children"] = ["IPY_MODEL_pane", "IPY_MODEL_box"]
    nbformat.write(made, path)
    site.make_site(load_profile("tiny"), runs / "site")
    assert "the first state" in (runs / "site" / "06_judge.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["file", "folder in it"])
def test_a_place_that_is_taken_is_named(runs, kind):
    execute(runs / "tiny" / "notebooks", "01_explore", "01_explore-seed-42")
    place = runs / "site"
    if kind == "file":
        place.write_text("mine", encoding="utf-8")
    else:
        site.make_site(load_profile("tiny"), place)
        (place / "more.html").mkdir()
    with pytest.raises(InputError, match="something else is there already"):
        site.make_site(load_profile("tiny"), place)


@pytest.mark.parametrize(
    "src", ["../../secret.png", "/secret.png", "http://[/x.png", "a\0.png", "x" * 5000 + ".png", "%00.png", "docs/"]
)
def test_a_picture_comes_from_the_repository_or_is_left_out(src, tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(base64.b64decode(PNG))
    monkeypatch.setattr(cleaning, "ROOT", tmp_path / "repository")
    body = cleaning._parse(f'<img src="{src}" alt="said"><a href="{src}">led</a>')
    page = cleaning.Page("notebooks/01_explore.ipynb", "01_explore.html", "1", body)
    cleaning.connect(page, {})
    assert str(page.body) == "saidled"
