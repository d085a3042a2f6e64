"""Environments: what can be stepped. Nothing here knows about learning.

Tour: stop 1. ``make.make_env`` is the only place where one is chosen.
"""
