"""``python -m spear.agent file.py``: serve the functions of a file to a host."""

from ._main import main

main()
