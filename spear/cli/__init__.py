"""The ``spear`` command."""

from ._entry import main as main
