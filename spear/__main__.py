"""``python -m spear`` is ``spear``."""

import sys

from spear.cli import main

sys.exit(main())
