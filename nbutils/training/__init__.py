"""Fine-tuning: the models, the packing, the trainer, and what of it leaves the project.

`bases` sees to it that a base model can be had, `vocabulary` that its tokenizer fits it, `models` loads them and trains
the one of `tiny`; `memory` says before whether it fits. `packing` plans the optimizer steps, `trainer` runs them,
`attention` keeps examples apart, `callbacks` keeps checkpoints and the loss curve, `saving` writes what was trained,
`release` makes cards and merged models.
"""
