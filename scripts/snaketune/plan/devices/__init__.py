"""Devices: capabilities and prices."""
