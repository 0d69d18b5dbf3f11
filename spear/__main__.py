"""The module that ``python -m spear`` runs: the same as the command ``spear``."""

import sys

from spear.cli import main

sys.exit(main())
