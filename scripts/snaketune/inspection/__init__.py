"""Inspection of data before anything is prepared: the beginnings of the sources, and how a model will see them."""

from snaketune.inspection.inspecting import inspect_group

__all__ = ["inspect_group"]
