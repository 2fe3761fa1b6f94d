"""The paper's claims: published numbers, facts about data, evidence of runs, and the rule that settles them.

`published` reads the paper's numbers, `facts` measures the public files, `results` and `evidence` read a run,
`independent` what judgments of others' models say, `settle` gives each claim its verdict, `page` writes docs/claims.md.
`python -m nbutils.claims` prints them.
"""
