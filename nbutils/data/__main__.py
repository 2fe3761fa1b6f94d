"""List and fetch the sources of outside data.

python -m nbutils.data                 list the sources with licence, size and whether they are at hand
python -m nbutils.data fetch NAME...   download, verify and keep them in the cache
"""

from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.data import catalogue
from nbutils.data.catalogue import UNVERIFIED


def print_sources() -> None:
    """Print every source with its rows, size, licence and whether it is at hand."""
    line = "{:27} {:9} {:>9} {:>9}  {:10} {:17} {}"
    print(line.format("name", "kind", "rows", "size", "hash", "at hand", "licence"))
    for entry in catalogue.sources().values():
        try:
            found = catalogue.locate(entry.name) or []
            state = "gated" if entry.gated and not found else "no"
        except InputError as error:
            found, state = [], f"refused: {error}"
        if found:
            state = "cache" if catalogue.cache_folder() in found[0].parents else "mirror"
        if entry.path:
            state = "in the repository"
        known = UNVERIFIED if entry.sha256 == UNVERIFIED and not entry.path and not entry.git_blob else "known"
        size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "?"
        print(line.format(entry.name, entry.kind, f"{entry.rows:,}", size, known, state, entry.licence))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.data`."""
    parser = ArgumentParser(prog="python -m nbutils.data", description="List or fetch the data sources.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="list all sources (the default)")
    fetching = commands.add_parser("fetch", help="download and verify sources")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    given = parser.parse_args(arguments)
    if given.command != "fetch":
        return print_sources()
    for name in given.names:
        for path in catalogue.fetch(name):
            print(f"{name}: {path}")


if __name__ == "__main__":
    main()
