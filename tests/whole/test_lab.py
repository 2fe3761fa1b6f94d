"""Every notebook in JupyterLab, in a real browser: all cells run, figures appear, the widgets answer a click."""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nbutils import ROOT

NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
SHORT = pytest.mark.system
"""Needs a browser, and no model."""

TOKEN = "only-for-this-test"
MINUTES = 60_000
"""In the milliseconds that Playwright counts in."""

DRAWS = {"00_start_here": 1, "01_explore": 5, "04_finetune": 1, "05_generate": 1, "06_judge": 1, "07_length_bias": 1}
"""Notebooks that draw figures, and the least number of them on the sample."""

READY = """async () => {
    const panel = window.jupyterapp?.shell.currentWidget
    if (!panel?.sessionContext) return false
    await panel.context.ready
    await panel.sessionContext.ready
    // The idle light comes before the kernel's connection, and without that Run All does nothing.
    await panel.sessionContext.session.kernel.info
    return true
}"""

RUN_ALL = """() => {
    window.outcome = null
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(
        () => { window.outcome = 'done' }, error => { window.outcome = String(error) })
}"""

CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code')
    .map(cell => ({
        count: cell.model.executionCount,
        outputs: cell.model.outputs.toJSON(),
        source: cell.model.sharedModel.getSource(),
    }))"""

PICTURES = """async () => {
    const found = []
    const own = image => !image.src.startsWith('https:')  // the badge is Colab's, and there is no network
    for (const cell of window.jupyterapp.shell.currentWidget.content.widgets) {
        cell.node.scrollIntoView()
        await new Promise(resolve => setTimeout(resolve, 60))
        const images = [...cell.node.querySelectorAll('.jp-RenderedImage img, .jp-MarkdownOutput img')]
        for (const image of images.filter(own)) {
            await image.decode().catch(() => null)
            const kind = image.closest('.jp-RenderedImage') ? 'drawn' : 'linked'
            found.push([kind, image.naturalWidth, image.src.slice(0, 90)])
        }
    }
    return found
}"""


# --- server and browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a copy of the notebooks (Lab saves what it runs); yields its address."""
    folder = tmp_path_factory.mktemp("a lab with spaces")
    for name in ("notebooks", "figures"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    command, port = lab_command(folder / "root"), free_port()
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen([*command, *options], env=environment(folder), cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks"
    finally:
        server.terminate()
        server.wait(60)


def lab_command(root):
    """The command of `make lab`, as make would run it."""
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", "lab", f"BIN={Path(sys.executable).parent}", f"LAB_ROOT={root}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(printed.stdout.splitlines()[-1])


@pytest.mark.parametrize(("user", "is_allowed"), [("0", True), ("1000", False)])
def test_root_is_let_in_and_told(user, is_allowed):
    made = ["make", "--no-print-directory", "-n", "lab", f"USER_ID={user}", f"BIN={Path(sys.executable).parent}"]
    printed = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("--allow-root" in printed) is is_allowed
    assert ("As root: whoever has the token" in printed) is is_allowed


def environment(folder):
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet), encoding="utf-8")
    own = {"LIM_RUNS": str(folder / "runs"), "LIM_OFFLINE": "1", "LIM_DATA_MIRROR": "", "LIM_DATA_CACHE": str(folder)}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "IPYTHONDIR": str(folder / "ipython")}
    if kept := os.environ.get("LIM_LAB_RUNS"):
        own["LIM_RUNS"] = kept
    return os.environ | own


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_server(url, server, log, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8")[-2000:])


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=MINUTES)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(2 * MINUTES)
    yield page
    # A kernel outlives its page, and the next one to open the notebook would find its variables.
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


def open_notebook(page, lab, name):
    page.goto(f"{lab}/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.wait_for_selector(".jp-NotebookPanel:visible .jp-Cell")
    deadline = time.monotonic() + 120
    while not page.evaluate(READY):
        assert time.monotonic() < deadline, "the kernel did not connect"
        time.sleep(0.2)


def run_all(page, minutes=15):
    page.evaluate(RUN_ALL)
    page.wait_for_function("() => window.outcome !== null", timeout=minutes * MINUTES)
    assert page.evaluate("() => window.outcome") == "done"
    return page.evaluate(CELLS)


def errors(cells):
    outputs = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    return [f"{output['ename']}: {output['evalue']}" for output in outputs]


def take_picture(page, name):
    """Keep what is seen where `LIM_SCREENSHOTS` names a folder."""
    if folder := os.environ.get("LIM_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def scroll_to(page, source):
    """Bring the cell with this text into view and return it (cells on the way are laid out late, and shift it)."""
    cell = page.locator(".jp-NotebookPanel:visible .jp-CodeCell").filter(has_text=source).last
    for _ in range(5):
        cell.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
    return cell


# --- the notebooks, in reading order: 00 computes what the others find fresh ---------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SHORT if name == "02_select" else pytest.mark.long) for name in NAMES]
)
def test_all_cells_run_and_the_figures_appear(lab, page, name):
    open_notebook(page, lab, name)
    cells = run_all(page)
    assert errors(cells) == []
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    text = "".join(output.get("text", "") for output in cells[-1]["outputs"])
    assert text.startswith(("ok: ", "nothing published")), text
    pictures = page.evaluate(PICTURES)
    if drawn := page.locator(".jp-NotebookPanel:visible .jp-RenderedImage img").all():
        drawn[0].scroll_into_view_if_needed()
    take_picture(page, name)
    assert [picture for picture in pictures if picture[1] < 200] == []
    assert sum(kind == "drawn" for kind, *_ in pictures) >= DRAWS.get(name, 0)


# --- clicks --------------------------------------------------------------------------------------------------------


@SHORT
def test_the_browser_of_examples_answers(lab, page):
    from playwright.sync_api import expect

    open_notebook(page, lab, "01_explore")
    assert errors(run_all(page)) == []
    widgets = scroll_to(page, "notebook.browse")
    place, _, words = (widgets.locator("td").nth(i) for i in range(3))
    expect(place).to_have_text("1")
    expect(words).to_have_text(re.compile(r"^\d{3}$"))
    widgets.locator("select").select_option(label="sample-60-shortest")
    expect(words).to_have_text(re.compile(r"^\d{1,2}$"))
    middle = re.compile(r"^[23]\d$")  # of 60
    for _ in range(3):  # a click while the slider is drawn anew for the other examples is lost
        click_slider(widgets, 0.5)
        with contextlib.suppress(AssertionError):
            expect(place).to_have_text(middle, timeout=5_000)
            break
    expect(place).to_have_text(middle)
    take_picture(page, "01_explore-clicked")


@SHORT
def test_the_cut_moves_with_its_slider(lab, page):
    from playwright.sync_api import expect

    open_notebook(page, lab, "02_select")
    assert errors(run_all(page)) == []
    widgets = scroll_to(page, "cuts.live(")
    image, kept = widgets.locator(".widget-html img"), widgets.locator(".widget-html td").nth(1)
    expect(kept).to_have_text("60")
    assert image.get_attribute("alt").startswith("The 60 longest by NLTK words: ")
    click_slider(widgets, 0.5)  # half way from 1 to 260, mostly on a logarithmic scale
    expect(kept).to_have_text(re.compile(r"^3\d$"))
    widgets.get_by_role("button", name="characters").click()
    expect(image).to_have_attribute(
        "alt", re.compile(r"^The 3\d longest by characters: responses of [\d,]{4,} and more")
    )
    take_picture(page, "02_select-moved")


def click_slider(widgets, share):
    """Click into the track of the only slider, at a share (0 to 1) of its width."""
    track = widgets.locator(".noUi-base")
    box = track.bounding_box()
    track.click(position={"x": box["width"] * share, "y": box["height"] / 2}, force=True)


@pytest.mark.long
def test_the_browser_of_answers_answers(lab, page):
    from playwright.sync_api import expect

    open_notebook(page, lab, "05_generate")
    assert errors(run_all(page)) == []
    widgets = scroll_to(page, "varied_pairs")
    shown = widgets.locator(".widget-html-content").first
    expect(shown).to_contain_text("Pair 1 of 80, of 80 in all.")  # 40 prompts, two variants
    widgets.locator("select").select_option(index=1)
    expect(shown).to_contain_text("Pair 1 of 40, of 80 in all.")
    take_picture(page, "05_generate-clicked")


@pytest.mark.long
def test_the_judged_pairs_answer_to_every_filter(lab, page):
    from playwright.sync_api import expect

    open_notebook(page, lab, "06_judge")
    assert errors(run_all(page)) == []
    widgets = scroll_to(page, "judge.collect_pairs")
    shown = widgets.locator(".widget-html-content").first
    expect(shown).to_contain_text("Pair 1 of 40, of 40 in all.")
    judge, verdict, differs = (widgets.locator("select").nth(i) for i in range(3))
    judge.select_option(label="first")  # which contradicts itself on every prompt
    differs.select_option(label="its two orders")
    expect(shown).to_contain_text("Pair 1 of 40, of 40 in all.")
    verdict.select_option(label="win")
    expect(shown).to_contain_text("No pair passes these filters.")
    verdict.select_option(label="tie")
    expect(shown).to_contain_text("The first answer is better.")
    take_picture(page, "06_judge-clicked")


@pytest.mark.long
def test_the_slider_of_the_length_ratio_moves_the_win_rate(lab, page):
    from playwright.sync_api import expect

    open_notebook(page, lab, "07_length_bias")
    assert errors(run_all(page)) == []
    widgets = scroll_to(page, "length.ask_ratio(judgments")
    said = widgets.locator(".widget-html p").first
    expect(said).to_contain_text("were equally long, it would win")
    picture = widgets.locator(".widget-html img").get_attribute("src")
    click_slider(widgets, 0.75)  # from a quarter to four times: the double
    expect(said).to_contain_text(re.compile(r"were (1\.9|2\.0)\d times as long"))
    assert widgets.locator(".widget-html img").get_attribute("src") != picture
    take_picture(page, "07_length_bias-clicked")


# --- out of order --------------------------------------------------------------------------------------------------


def run_cell(page, source):
    """Run the one cell that holds this text, and return it once the kernel is done with it."""
    page.evaluate(
        """async source => {
            const { content } = window.jupyterapp.shell.currentWidget
            const sources = content.widgets.map(cell => cell.model.sharedModel.getSource())
            content.activeCellIndex = sources.findIndex(text => text.includes(source))
            await window.jupyterapp.commands.execute('notebook:run-cell')
            const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session
            while (content.activeCell.model.executionCount === null || kernel.status !== 'idle') {
                await new Promise(resolve => setTimeout(resolve, 50))
            }
        }""",
        source,
    )
    return next(cell for cell in page.evaluate(CELLS) if source in cell["source"])


def change_cell(page, before, after):
    page.evaluate(
        """([before, after]) => {
            const cells = window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.sharedModel)
            const cell = cells.find(cell => cell.getSource().includes(before))
            cell.setSource(cell.getSource().replace(before, after))
        }""",
        [before, after],
    )


@SHORT
def test_a_cell_before_its_time_says_what_to_do(lab, page):
    open_notebook(page, lab, "02_select")
    run_cell(page, 'profile = "tiny"')
    run_cell(page, "notebook.begin(profile)")
    early = run_cell(page, "first_rows = ")
    assert errors([early]) == ["NameError: name 'chosen' is not defined"]
    page.get_by_text("Run the ones above first").wait_for()
    take_picture(page, "02_select-too-early")


@SHORT
def test_a_changed_parameter_shows_its_own_results(lab, page):
    open_notebook(page, lab, "02_select")
    assert errors(run_all(page)) == []
    change_cell(page, 'arm = "alpaca-1k-longest"', 'arm = "alpaca-1k-random-7"')
    for source in ('profile = "tiny"', "notebook.begin(profile)", "made = select.run(profile, arm, seed)"):
        assert errors([run_cell(page, source)]) == []
    take_picture(page, "02_select-changed")
    manifest = run_cell(page, "kept.items()")
    assert "sample-60-random-7" in str(manifest["outputs"])


@SHORT
def test_a_forgotten_profile_is_named(lab, page):
    open_notebook(page, lab, "04_finetune")
    change_cell(page, 'profile = "tiny"', 'profile = "tinny"')
    run_cell(page, "arm = ")
    (refused,) = errors([run_cell(page, "notebook.begin(profile)")])
    assert refused.startswith("InputError: no profile 'tinny': choose one of colab-t4, ")
