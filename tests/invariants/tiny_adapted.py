"""A tiny model with an adapter that changes its outputs, for comparing two ways to compute the same."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
LORA = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def build(config, kernel="sdpa", lora=LORA):
    """Return a model in training mode whose adapter, norms and biases all change what it computes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**lora)) if lora else model
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    return model.train()
