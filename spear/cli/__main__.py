"""Run ``spear`` as ``python -m spear.cli``."""

import sys

from ._entry import main

sys.exit(main())
