"""Ablation: what each optimisation is worth, measured on this machine, one by one and together."""
