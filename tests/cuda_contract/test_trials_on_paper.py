"""What a card is tried with trains on paper: DPO, quantised bases and the presets, in the formats that kernels take."""

import pytest
import torch

from snaketune.train.device import prepare_arithmetic
from snaketune.train.fitness.bench import REDUCED, Bench
from snaketune.train.fitness.checks import CHECKS

# Those with compiled layers, other packages or real memory are for cards.
TRIALS = {
    "method: DPO": torch.bfloat16,
    "method: all weights, steps in backward": torch.bfloat16,
    "preset: fast": torch.bfloat16,
    "preset: low_memory": torch.bfloat16,
    "preset: optimized": torch.float16,
    "preset: optimized_13b": torch.bfloat16,
    "preset: aggressive": torch.float16,
    "preset: original_34b": torch.bfloat16,
    "preset: fsdp_2xh100": torch.bfloat16,
    "preset: phase1c_after": torch.bfloat16,
    "preset: baseline": None,
    "preset: phase1c_before": torch.bfloat16,
    "preset: zero3_4xa100": torch.bfloat16,
    "preset: h100_current": torch.bfloat16,
}


@pytest.mark.parametrize("card", ["4090"], indirect=True)
@pytest.mark.parametrize("name", TRIALS)
def test_it_trains_on_a_card(card, tmp_path, name, monkeypatch):
    # transformers puts quantised weights onto the device of this number, past the modes.
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    bench = Bench.build(prepare_arithmetic(1), REDUCED, tmp_path)
    card.flash.calls.clear()
    seen = CHECKS[name](bench)
    assert seen.figures["losses"][-1] < seen.figures["losses"][0]
    assert {dtype for dtype, _, _ in card.flash.calls} == ({TRIALS[name]} - {None})
