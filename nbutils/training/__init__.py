"""Fine-tuning: the models, the packing, the trainer, and what of it leaves the project.

`packing` plans the optimizer steps, `trainer` runs them, `callbacks` keeps checkpoints and the loss curve, `memory`
says before whether it fits, `release` makes cards and merged models, `tiny_base` trains the model of `tiny`.
"""
