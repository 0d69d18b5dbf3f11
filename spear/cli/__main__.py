"""``python -m spear.cli`` is ``spear``."""

import sys

from ._entry import main

sys.exit(main())
