"""A run's executed notebooks as pages for any web server: no service, no script, nothing asked of the network.

    python -m nbutils.execution.site PROFILE [-o FOLDER]      (make site PROFILE=...)

The ten notebooks in order, the run's other arms and seeds beside them, its report, and the documents that they name.
A notebook that the run has not executed is shown as it is committed, and says so; 00 is executed where the run is
finished. Links between notebooks become links between pages, pictures lie inside the pages, and in a widget's place
stands its first state.
"""

import base64
import functools
import mimetypes
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from nbutils import ROOT, arms, run
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.settings import Profile, load_profile

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from nbformat import NotebookNode

START = "00_start_here"
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
SHOWN_FIRST = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]
"""What is shown of an output that comes in several forms: never a widget, which would need a script."""

NO_TEXT = "No description has been provided for this image"
"""What nbconvert says of every picture of a cell."""

NEVER = ("script", "iframe", "object", "embed", "link", "meta", "base", "form")
"""Elements that no page needs. Its security policy would not let them do anything either."""


class Executed(NamedTuple):
    """An executed notebook of a run; `stage` is the committed notebook's name, `arm` is empty where it has none."""

    path: Path
    stage: str
    arm: str
    seed: int

    @property
    def label(self) -> str:
        """What tells it from the stage's other notebooks."""
        return ", ".join(filter(None, [self.arm, f"seed {self.seed}"]))


class Page(NamedTuple):
    """A page to be written: `source` is what links call it, relative to the repository; `name` is its file's."""

    source: str
    name: str
    title: str
    body: "BeautifulSoup"
    label: str = ""
    is_executed: bool = True


# --- what there is -------------------------------------------------------------------------------------------------


def find_executed(profile: Profile) -> dict[str, list[Executed]]:
    """The executed notebooks of a run by stage; first the one of the first seed and the target arm, then the newest."""
    targets = map(arms.parse_arm, _targets(profile))
    wanted = {"", *(name for arm in targets for name in (arm.name, arm.trained, arm.drawn))}
    found: dict[str, list[Executed]] = {}
    for path in sorted((disk.runs_folder() / profile.name / "notebooks").glob("[0-9]*.ipynb")):
        stage, _, rest = path.stem.partition("-")
        named = re.fullmatch(r"(?:(?P<arm>.+)-)?seed-(?P<seed>\d+)", rest)  # a failed one's ends otherwise
        if named and (ROOT / "notebooks" / f"{stage}.ipynb").is_file():
            found.setdefault(stage, []).append(Executed(path, stage, named["arm"] or "", int(named["seed"])))
    for each in found.values():
        each.sort(key=lambda one: (one.seed != profile.seeds[0], one.arm not in wanted, -one.path.stat().st_mtime))
    return found


def find_report(profile: Profile) -> Path | None:
    """The run's report on the target arm and first seed, else the newest; None where there is none."""
    folder = disk.runs_folder() / profile.name / "report"
    first = [folder / target / f"seed-{profile.seeds[0]}" for target in _targets(profile)]
    found = folder.glob("*/seed-*/report.html")
    return min(found, key=lambda path: (path.parent not in first, -path.stat().st_mtime), default=None)


def _targets(profile: Profile) -> list[str]:
    """The judged arm as the data at hand name it, and as the profile does: a run may be of either."""
    return [arms.with_data_at_hand(profile).judging.target, profile.judging.target]


# --- notebooks and documents as pages ------------------------------------------------------------------------------


def notebook_pages(executed: Mapping[str, list[Executed]]) -> Iterator[Page]:
    """The pages of all committed notebooks in order, each followed by those of its other arms and seeds."""
    for committed in sorted((ROOT / "notebooks").glob("*.ipynb")):
        chosen = executed.get(committed.stem, [])
        yield _notebook_page(committed.stem, f"{committed.stem}.html", chosen[0] if chosen else None)
        for other in chosen[1:]:
            yield _notebook_page(committed.stem, f"{other.path.stem}.html", other)


def _notebook_page(stage: str, name: str, executed: Executed | None) -> Page:
    committed = ROOT / "notebooks" / f"{stage}.ipynb"
    notebook = _read(executed.path if executed else committed)
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ") if notebook.cells else stage
    body = _parse(_render(notebook))
    _fold(body)
    label = executed.label if executed else ""
    return Page(f"notebooks/{stage}.ipynb", name, title, body, label, executed is not None)


def _read(path: Path) -> "NotebookNode":
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        why = (str(error).splitlines() or [""])[0][:200]
        raise InputError(f"{path}: not a notebook ({why}): remove it and run the profile again") from None


def _render(notebook: "NotebookNode") -> str:
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        _mark_folded(cell)
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data.setdefault("text/html", _still(output.data[WIDGET]["model_id"], state))
                del output.data[WIDGET]
    body, _ = _exporter().from_notebook_node(notebook)
    return str(body)


@functools.cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    exporter = HTMLExporter(
        template_name="basic", config=Config({"NbConvertBase": {"display_data_priority": SHOWN_FIRST}})
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    return exporter


def _mark_folded(cell: "NotebookNode") -> None:
    """Give a cell tags for what Jupyter or Colab fold of it, which the template hands on as classes."""
    folded = cell.metadata.get("jupyter", {})
    tags = list(cell.metadata.get("tags", []))
    if folded.get("source_hidden") or cell.metadata.get("cellView") == "form":
        tags.append("hide-input")
    if folded.get("outputs_hidden"):
        tags.append("hide-output")
    if tags:
        cell.metadata["tags"] = list(dict.fromkeys(tags))


def _still(model: str, state: Mapping[str, Any]) -> str:
    """The HTML of a widget and of what it contains, as it stood when the notebook was saved."""
    kept = state.get(model, {})
    values = kept.get("state", {})
    if kept.get("model_name") == "HTMLModel":
        return str(values.get("value", ""))
    return "".join(_still(child.removeprefix("IPY_MODEL_"), state) for child in values.get("children", []))


def document_pages() -> Iterator[Page]:
    """The pages of the repository's documents; none where the package is installed without them."""
    from nbconvert.filters import markdown2html

    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        body = _parse(f'<div class="text_cell">{markdown2html(text)}</div>')
        yield Page(f"docs/{path.name}", f"doc-{path.stem}.html", text.partition("\n")[0].lstrip("# "), body)


def _parse(html: str) -> "BeautifulSoup":
    """HTML without what no page needs, and with ids for its headings as GitHub gives them."""
    from bs4 import BeautifulSoup

    body = BeautifulSoup(html, "html.parser")
    for frame in body.find_all("iframe"):
        frame.replace_with(f"(Here stands the {frame.get('title') or 'page'}, which has a page of its own.)")
    for element in body.find_all(NEVER):
        element.decompose()
    taken: dict[str, int] = {}
    for heading in body.find_all(re.compile("^h[1-6]$")):
        for anchor in heading.find_all("a", class_="anchor-link"):
            anchor.decompose()
        slug = _slug(heading.get_text())
        taken[slug] = taken.get(slug, -1) + 1
        heading["id"] = f"{slug}-{taken[slug]}" if taken[slug] else slug
    return body


def _slug(text: str) -> str:
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _fold(body: "BeautifulSoup") -> None:
    """Put what a cell hides behind a line that opens it: the cell's `@title`, else its first line."""
    for tag, part in (("hide-input", "div.input"), ("hide-output", "div.output_wrapper")):
        for hidden in body.select(f".celltag_{tag} {part}"):
            first = hidden.get_text().strip().partition("\n")[0] if part == "div.input" else "Output"
            summary = body.new_tag("summary")
            summary.string = re.sub(r"^#\s*(@title)?\s*|\s*\{.*\}$", "", first)
            hidden.wrap(body.new_tag("details")).insert(0, summary)


# --- links and pictures --------------------------------------------------------------------------------------------


def connect(page: Page, by_source: Mapping[str, Page]) -> None:
    """Make a page stand alone: links lead to pages or to the web, else they are plain text; pictures are inside.

    by_source: the page of every file of the repository that has one.
    """
    for badge in page.body.select('a[href^="https://colab.research.google.com"] > img'):
        badge.replace_with("Open in Colab")
    for link in page.body.find_all("a", href=True):
        link["href"] = _target(page, str(link["href"]), by_source)
        if not link["href"]:
            link.unwrap()
    section = page.title
    for element in page.body.find_all(["h1", "h2", "h3", "img"]):
        if element.name != "img":
            section = element.get_text()
        elif src := _embedded(page.source, str(element.get("src", ""))):
            said = str(element.get("alt", ""))
            element["src"], element["alt"] = src, f"Figure: {section}" if said in ("", NO_TEXT) else said
        else:
            element.replace_with(str(element.get("alt", "")))


def _target(page: Page, href: str, by_source: Mapping[str, Page]) -> str:
    """What a link becomes; "" where it leads to nothing that is on the site or on the web."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        return href if parts.scheme in ("http", "https", "mailto") else ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), unquote(parts.path)))
    other = by_source.get(path) if parts.path else page
    if path == "README.md":
        return "index.html"
    if other is None:
        return ""
    slug = _slug(unquote(parts.fragment).replace("-", " "))
    fragment = f"#{slug}" if slug and other.body.find(id=slug) else ""
    return (other.name if parts.path else "") + fragment


def _embedded(source: str, src: str) -> str:
    """A picture's address with the picture in it; "" for one that would have to be fetched, or is not there."""
    if src.startswith("data:image/"):
        return src
    path = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(src)))
    kind = mimetypes.guess_type(path.name)[0] or ""
    if urlsplit(src).scheme or not kind.startswith("image/") or not path.is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


# --- the site ------------------------------------------------------------------------------------------------------


def make_site(profile: Profile, folder: Path) -> list[Path]:
    """Write all pages into a folder, in place of what an earlier call left there; returns them, the index first.

    Raises InputError where the run has no executed notebook, and for a folder that holds anything else.
    """
    executed = find_executed(profile)
    if not executed:
        where = disk.runs_folder() / profile.name / "notebooks"
        raise InputError(f"{where}: no executed notebooks: `make run PROFILE={profile.name}` makes them")
    if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        raise InputError(f"{folder}: something else is there already: name another folder")
    notebooks, documents = list(notebook_pages(executed)), list(document_pages())
    by_source = {page.source: page for page in reversed([*notebooks, *documents])}  # a stage's first page counts
    for page in (*notebooks, *documents):
        connect(page, by_source)
    report = find_report(profile)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".site-") as temporary:
        made = Path(temporary) / "site"
        made.mkdir()
        _write_pages(made, profile, notebooks, documents, report is not None)
        if report:
            shutil.copyfile(report, made / "report.html")
        if folder.exists():
            folder.replace(Path(temporary) / "old")
        made.replace(folder)
    return [folder / "index.html", *(folder / page.name for page in (*notebooks, *documents))]


def _is_ours(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    return not names or ("index.html" in names and all(name.endswith(".html") for name in names))


def _write_pages(
    folder: Path, profile: Profile, notebooks: list[Page], documents: list[Page], has_report: bool
) -> None:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pygments.formatters import HtmlFormatter

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("site.html.j2")
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    style = (TEMPLATES / "site.css").read_text(encoding="utf-8")
    style += f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    first = {page.source: page for page in reversed(notebooks)}
    common = {"style": style, "profile": profile, "has_report": has_report, "documents": documents}
    common |= {"stages": [page for page in notebooks if first[page.source] is page], "notebooks": notebooks}
    for page in (*notebooks, *documents):
        disk.write_text(folder / page.name, template.render(common, page=page, body=str(page.body)))
    disk.write_text(folder / "index.html", template.render(common, page=None, body=""))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.site`."""
    parser = ArgumentParser(
        prog="python -m nbutils.execution.site",
        description="A run's executed notebooks as pages for any web server.",
    )
    parser.add_argument("profile", help="name of a profile that was run, or path of a TOML file")
    parser.add_argument("-o", "--out", type=Path, help="the folder to write: runs/<profile>/site where none is named")
    given = parser.parse_args(arguments)
    profile = load_profile(given.profile)
    folder = given.out or disk.runs_folder() / profile.name / "site"
    # No step of a run, but where all steps are done it has nothing left to compute.
    steps = run.steps(given.profile, arms.with_data_at_hand(profile))
    if START not in find_executed(profile) and all(map(run.is_done, steps)):
        run.run_alone(given.profile, START, {})
    pages = make_site(profile, folder.resolve())
    print(f"{len(pages)} pages: open {pages[0]}, or put {folder} on any web server")


if __name__ == "__main__":
    main()
