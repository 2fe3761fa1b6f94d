"""FSDP on a CPU: accelerate offers it where it finds GPUs alone, torch over gloo as well.

A script that calls `allow()` first and is started by `accelerate launch --config_file profiles/accelerate/...` runs
as it would on GPUs, but for their number formats, which `DTYPE` in the environment may name.
"""

import os


def allow():
    """Let accelerate's state take the FSDP that its launcher asks for, and training a number format of the GPUs."""
    from accelerate import state
    from accelerate.utils import DistributedType

    begin = state.AcceleratorState.__init__

    def initialise(self, *arguments, **named):
        begin(self, *arguments, **named)
        plugin = named.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin
        if named.get("fsdp_plugin") and self.mixed_precision != "no":
            plugin.set_mixed_precision(self.mixed_precision)

    state.AcceleratorState.__init__ = initialise
    if dtype := os.environ.get("DTYPE"):
        from nbutils import finetune
        from nbutils.core.machine import Precision

        finetune.choose_precision = lambda: Precision("cpu", dtype, "test")
