"""The systems to compare with: one module each, with its `measure` and its server side.

A module may import the measured library at its top: only worker processes import the module, and only
if the library is installed.
"""
