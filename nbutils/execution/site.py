"""A run's executed notebooks as pages for any web server: no service, no script, nothing asked of the network.

    python -m nbutils.execution.site PROFILE [-o FOLDER]      (make site PROFILE=...)

The ten notebooks in order, the run's other arms and seeds beside them, its report, and the documents that they name.
A notebook that the run has not executed is shown as it is committed, and says so; 00 is executed where the run is
finished. Links between notebooks become links between pages, pictures lie inside the pages, and in a widget's place
stands its first state.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nbutils import ROOT, arms, run
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.settings import Profile, load_profile
from nbutils.execution import pages
from nbutils.execution.pages import Page

START = "00_start_here"
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


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


# --- what there is -------------------------------------------------------------------------------------------------


def find_executed(profile: Profile) -> dict[str, list[Executed]]:
    """The executed notebooks of a run by stage; first the one of the first seed and the target arm, then the newest."""
    targets = map(arms.parse_arm, _targets(profile))
    wanted = {"", *(name for arm in targets for name in (arm.name, arm.trained, arm.drawn))}
    found: dict[str, list[Executed]] = {}
    for path in sorted((disk.runs_folder() / profile.name / "notebooks").glob("[0-9]*.ipynb")):
        stage, _, rest = path.stem.partition("-")
        named = re.fullmatch(r"(?:(?P<arm>.+)-)?seed-(?P<seed>\d+)", rest)  # a failed one's ends otherwise
        if named and path.is_file() and (ROOT / "notebooks" / f"{stage}.ipynb").is_file():
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


def notebook_pages(executed: Mapping[str, list[Executed]]) -> Iterator[Page]:
    """The pages of all committed notebooks in order, each followed by those of its other arms and seeds."""
    for committed in sorted((ROOT / "notebooks").glob("*.ipynb")):
        stage, chosen = committed.stem, executed.get(committed.stem, [])
        if not chosen:
            yield pages.read_notebook(stage, f"{stage}.html", committed, is_executed=False)
        for number, each in enumerate(chosen):
            name = each.path.stem if number else stage
            yield pages.read_notebook(stage, f"{name}.html", each.path, each.label)


def document_pages() -> Iterator[Page]:
    """The pages of the repository's documents; none where the package is installed without them."""
    yield from map(pages.read_document, sorted((ROOT / "docs").glob("*.md")))


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
        pages.connect(page, by_source)
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
    """Whether a folder is empty, or a site that this module wrote and nobody has added anything to."""
    paths, index = list(folder.iterdir()), folder / "index.html"
    if not paths or not all(path.suffix == ".html" and path.is_file() for path in paths) or not index.is_file():
        return not paths
    return "· long-is-more</title>" in index.read_text(encoding="utf-8", errors="replace")


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
    written = make_site(profile, folder.resolve())
    print(f"{len(written)} pages: open {written[0]}, or put {folder} on any web server")


if __name__ == "__main__":
    main()
