"""The systems to stand beside: one module each, with its `measure` and its server side.

A module may import the library it measures at its top: it is loaded in worker processes only, and
only where that library is installed.
"""
