# A profile's notebooks as jobs; `make batch` starts it (nbutils/execution/cluster.py, docs/clusters.md).
# Which jobs there are and what each waits for comes from nbutils: the grid is defined once. A marker says that a job is
# through; whether its result is still fresh its manifest decides, so a newer marker makes nothing stale (`ancient`).
# All machines see the same folders, so no file goes by way of a bucket (`local`).

from nbutils.execution import cluster

grid = cluster.load_grid(config["profile"], config["optional"] == "yes")

wildcard_constraints:
    arm = "[^/]+",
    seed = "[0-9]+",

rule all:
    input: [local(cluster.marker(step)) for step in grid.steps]

for pattern in grid.patterns():
    rule:
        name: pattern.notebook.partition("_")[2]
        input:
            lambda wildcards, pattern=pattern: [
                local(ancient(cluster.marker(step))) for step in grid.needs(cluster.filled(pattern, wildcards))
            ]
        output: local(touch(cluster.marker(pattern)))
        log: local(str(pattern.output))
        params:
            folder = config["folder"],
            python = config["python"],
            step = cluster.arguments(pattern),
        resources: **grid.resources(pattern.notebook)
        shell: "cd {params.folder:q} && {params.python:q} -m nbutils.run {params.step}"
