"""Configuration: files become typed settings, or errors that say where and what to write instead.

This package knows units, secrets, positions and texts; every other package owns its own settings.
"""
