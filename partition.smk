# The k longest of a dataset in many parts: nbutils.select once a part, and once more on all that came out of it
# (`python -m nbutils.execution.cluster select` starts it). parts.json names the part of every output in its folder.

import json, pathlib

bests = pathlib.Path(config["bests"])
parts = json.loads((bests / "parts.json").read_text())
select = "cd {params.folder:q} && {params.python:q} -m nbutils.select"
common = {name: config[name] for name in ("folder", "python", "bests", "options")}

rule all:
    input: local(config["out"])

rule once_more:
    input: [local(ancient(str(bests / best))) for best in parts]
    output: local(config["out"])
    params: **common
    shell: select + " {params.bests:q} {params.options} -o {output:q}"

rule longest:
    output: local(f"{bests}/{{best}}")
    wildcard_constraints: best = "[0-9]+[.](jsonl|parquet)"
    params: **common, part = lambda wildcards: parts[wildcards.best]
    shell: select + " {params.part:q} --part {params.options} -o {output:q}"
