"""What a stage has loaded is let go when it is done: the next one of the same process needs the memory."""

import gc

import pytest
import torch
from trainable_models import profile_on, save_model

from nbutils import finetune, generate
from nbutils.training import trainer  # noqa: F401  what its libraries log at their import, pytest keeps, with frames


def living_weights():
    """Numbers in the weights of all modules that still exist, whether or not anybody uses them."""
    modules = [found for found in gc.get_objects() if issubclass(type(found), (torch.nn.Embedding, torch.nn.Linear))]
    return sum(weight.numel() for module in modules for weight in module.parameters(recurse=False))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_no_model_outlives_its_stage(tmp_path, runs, optimizer):
    profile = profile_on(save_model(tmp_path / "model"), {"optimizer": optimizer, "max_rows": 6, "epochs": 1})
    gc.collect()
    before = living_weights()
    gc.disable()  # as if the collector did not come by before the next model is loaded
    try:
        finetune.run(profile, "sample-24-longest")
        assert living_weights() == before
        generate.run(profile, "sample-24-longest")
        assert living_weights() == before
    finally:
        gc.enable()
