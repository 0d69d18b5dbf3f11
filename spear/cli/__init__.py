"""The ``spear`` command."""

from ._main import main as main
