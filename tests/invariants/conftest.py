"""What the training tests share: one base model and one set of rows."""

from tiny_fixtures import base, rows  # noqa: F401 - fixtures of the tests here
