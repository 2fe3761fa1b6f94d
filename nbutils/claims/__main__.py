"""The paper's claims and what became of them.

python -m nbutils.claims                 print the verdicts
python -m nbutils.claims --profile NAME  the same with what the profile's run measured
python -m nbutils.claims --write         and write docs/claims.md and the tables of figures/ that hold them
python -m nbutils.claims facts           recompute the claims about data from the public files and compare
python -m nbutils.claims facts --write   and store what was measured
"""

from nbutils import ROOT, report
from nbutils.analysis import answer_facts
from nbutils.claims import evidence, facts, page, published, settle
from nbutils.claims.evidence import Measured, Results
from nbutils.core import disk, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.settings import Profile, load_profile


def read_run(profile: Profile, seed: int = 42) -> Results:
    """A profile's fresh results."""
    return evidence.read(profile, report.find(profile, seed), report.find_votes(profile, seed))


def measure_run(profile: Profile, seed: int = 42) -> Measured:
    """What a profile's fresh results say of each claim (see nbutils/claims/evidence.py)."""
    return evidence.measure(read_run(profile, seed))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.claims`."""
    parser = ArgumentParser(prog="python -m nbutils.claims", description="The paper's claims and what became of them.")
    parser.add_argument("what", nargs="?", choices=["verdicts", "facts"], default="verdicts")
    parser.add_argument("--write", action="store_true", help="write what is shown to the project's files")
    parser.add_argument("--profile", help="read what this profile's run measured")
    parser.add_argument("--seed", type=int, default=42, help="of that run (default 42)")
    given = parser.parse_args(arguments)
    if given.profile and (given.write or given.what == "facts"):
        parser.error("--profile goes alone: the project's files hold no single run")
    if given.profile:
        return _show_run(load_profile(given.profile), given.seed)
    if given.what == "facts":
        if missing := facts.missing_sources():
            raise InputError(f"not at hand: {', '.join(missing)}: python -m nbutils.data fetch {missing[0]}")
        measured = facts.measure_facts()
        stored = measured if given.write else settle.load_facts()
        for fact in measured:
            differs = "" if fact in stored else "  (differs from what is stored)"
            print(f"{fact.claim}  {'holds' if fact.holds else 'FAILS'}  {fact}{differs}")
        if given.write:
            tables.write(published.FOLDER / "measured-facts.csv", [fact._asdict() for fact in measured])
        return
    settled = settle.settle()
    for item in settled:
        print(f"{item.claim.id:4} {item.verdict:24} {item.claim.claim} (published: {item.reading})")
    if given.write:
        disk.write_text(ROOT / "docs" / "claims.md", page.render(settle.tabulate(settled)))
        settle.write_tables(ROOT / "figures" / "tables")


def _show_run(profile: Profile, seed: int) -> None:
    """Print every claim with its verdict, and what was measured of those that do not rest on others."""
    if not evidence.is_evidence(profile):
        print(f"Profile {profile.name} is no evidence ({profile.note or 'the tiny model'}): only the data is settled.")
    results = read_run(profile, seed)
    for item in settle.settle(evidence.measure(results)):
        print(f"{item.claim.id:4} {item.verdict:24} {item.claim.claim}")
        if not item.claim.rests_on and not item.facts:
            print("".join(f"       {line}\n" for line in item.here), end="")
    if lines := answer_facts.tell(results.answers):
        print("Facts about answers, which no claim rests on (95% intervals over texts):")
        print("".join(f"  {line}\n" for line in lines), end="")


if __name__ == "__main__":
    main()
