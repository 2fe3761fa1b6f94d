# The k longest of a partitioned dataset: one job a part, then an exact merge (nbutils/execution/partition.py starts it).

from nbutils.execution import partition

parts = partition.part_names(config["rows"], config["split"])

rule all:
    input: local(config["out"])

rule merge:
    input: [local(ancient(f"{config['bests']}/{number}.json")) for number in range(len(parts))]
    output: local(config["out"])
    params: **{name: config[name] for name in ("folder", "python", "rows", "bests", "options")},
    shell:
        "cd {params.folder:q} && {params.python:q} -m nbutils.execution.partition merge {params.rows:q} {params.bests:q}"
        " {params.options} -o {output:q}"

rule longest:
    output: local(config["bests"] + "/{number}.json")
    wildcard_constraints: number = "[0-9]+"
    params:
        **{name: config[name] for name in ("folder", "python", "rows", "bests", "options")},
        part = lambda wildcards: parts[int(wildcards.number)],
    shell:
        "cd {params.folder:q} && {params.python:q} -m nbutils.execution.partition map {params.rows:q} {params.part:q}"
        " {params.options} -o {params.bests:q}"
