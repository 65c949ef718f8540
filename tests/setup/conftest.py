"""Shares the fixture that runs a command line in this process."""

from tests.commands.conftest import run  # noqa: F401
