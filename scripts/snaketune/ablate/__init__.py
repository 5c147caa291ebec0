"""Ablation: the effect of each optimisation, measured on this machine, one by one and together."""
