"""The settings of the stages: their slices of the configuration as plain types."""
