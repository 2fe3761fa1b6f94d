"""An executed notebook, or a document, as a page that stands alone: cleaned, folded, its links and pictures mended.

What a notebook's outputs hold may come from a model or a dataset, and is trusted with nothing: no element that could
run, fetch or lead away, and no picture from outside of the repository.
"""

import base64
import functools
import mimetypes
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from nbutils import ROOT
from nbutils.core.errors import InputError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from nbformat import NotebookNode

WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
SHOWN_FIRST = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]
"""What is shown of an output that comes in several forms: never a widget, which would need a script."""

NO_TEXT = "No description has been provided for this image"
"""What nbconvert says of every picture of a cell."""

NEVER = ("script", "iframe", "object", "embed", "link", "meta", "base", "form")
"""Elements that no page needs. Its security policy would not let them do anything either."""


class Page(NamedTuple):
    """A page to be written: `source` is what links call it, relative to the repository; `name` is its file's."""

    source: str
    name: str
    title: str
    body: "BeautifulSoup"
    label: str = ""
    is_executed: bool = True


# --- notebooks and documents ---------------------------------------------------------------------------------------


def read_notebook(stage: str, name: str, path: Path, label: str = "", is_executed: bool = True) -> Page:
    """The page of a notebook. Raises InputError, naming the file, for what is none."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0].source.partition("\n")[0].lstrip("# ") if notebook.cells else stage
        body = _fold(_parse(_render(notebook)))
    except Exception as error:  # whatever a library stumbles over in it
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: not a notebook ({why}): remove it and run the profile again") from None
    return Page(f"notebooks/{stage}.ipynb", name, title, body, label, is_executed)


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


def _still(model: str, state: Mapping[str, Any], shown: frozenset[str] = frozenset()) -> str:
    """The HTML of a widget and of what it contains, as it stood when the notebook was saved; none within itself."""
    kept = state.get(model, {}) if model not in shown else {}
    values = kept.get("state", {})
    if kept.get("model_name") == "HTMLModel":
        return str(values.get("value", ""))
    children = (child.removeprefix("IPY_MODEL_") for child in values.get("children", []))
    return "".join(_still(child, state, shown | {model}) for child in children)


def read_document(path: Path) -> Page:
    """The page of one of the repository's documents, in Markdown."""
    from nbconvert.filters import markdown2html

    text = path.read_text(encoding="utf-8")
    body = _parse(f'<div class="text_cell">{markdown2html(text)}</div>')
    return Page(f"docs/{path.name}", f"doc-{path.stem}.html", text.partition("\n")[0].lstrip("# "), body)


def _parse(html: str) -> "BeautifulSoup":
    """HTML without what no page needs, and with ids for its headings as GitHub gives them."""
    from bs4 import BeautifulSoup
    from bs4.element import PreformattedString

    body = BeautifulSoup(html, "html.parser")
    for frame in body.find_all("iframe"):
        frame.replace_with(f"(Here stands the {frame.get('title') or 'page'}, which has a page of its own.)")
    for element in body.find_all(NEVER):
        element.decompose()
    # Browsers end some comments, and styles within pictures, where this parser reads on: elements would come to life.
    comments = [text for text in body.descendants if isinstance(text, PreformattedString)]
    for hidden in (*comments, *(style for style in body.find_all("style") if "<" in style.get_text())):
        hidden.extract()
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


def _fold(body: "BeautifulSoup") -> "BeautifulSoup":
    """Put what a cell hides behind a line that opens it: the cell's `@title`, else its first line."""
    for tag, part in (("hide-input", "div.input"), ("hide-output", "div.output_wrapper")):
        for hidden in body.select(f".celltag_{tag} {part}"):
            first = hidden.get_text().strip().partition("\n")[0] if part == "div.input" else "Output"
            summary = body.new_tag("summary")
            summary.string = re.sub(r"^#\s*(@title)?\s*|\s*\{.*\}$", "", first)
            hidden.wrap(body.new_tag("details")).insert(0, summary)
    return body


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
    parts = _split(href)
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
    return (quote(other.name) if parts.path else "") + fragment


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # such as half of an IPv6 address
        return urlsplit("none:")


def _embedded(source: str, src: str) -> str:
    """A picture's address with the picture in it; "" for one that would have to be fetched, or is not in here."""
    if src.startswith("data:image/"):
        return src
    kind = mimetypes.guess_type(unquote(_split(src).path))[0] or ""
    if _split(src).scheme or not kind.startswith("image/"):
        return ""
    try:
        path = (ROOT / posixpath.dirname(source) / unquote(src)).resolve()
        content = path.read_bytes() if path.is_relative_to(ROOT) else b""
    except (OSError, ValueError):  # no such file, or no name of one
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""
