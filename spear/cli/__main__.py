"""``python -m spear.cli`` is ``spear``."""

import sys

from ._main import main

sys.exit(main())
