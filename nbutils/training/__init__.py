"""Fine-tuning: the models, the packing, the trainer, and what of it leaves the project.

`packing` plans the optimizer steps, `trainer` runs them, `attention` keeps examples apart, `callbacks` writes
checkpoints and the loss curve, `memory` says before whether it fits, `models` loads them and trains the one of `tiny`,
`release` makes cards and merged models.
"""
