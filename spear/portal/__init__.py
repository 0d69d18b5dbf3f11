"""A thread that runs Trio, for programs that do not, and the ways in and out of it.

``spear.blocking`` and ``spear.asyncio`` are made of these parts.
"""

from ._blocks import HeldBlock as HeldBlock
from ._calls import PortalCall as PortalCall
from ._handover import AHEAD_ITEMS as AHEAD_ITEMS
from ._handover import ItemHandover as ItemHandover
from ._handover import ItemThread as ItemThread
from ._handover import is_at_hand as is_at_hand
from ._pages import Page as Page
from ._pages import take_page as take_page
from ._portal import Portal as Portal
from ._portal import expect_outside as expect_outside
