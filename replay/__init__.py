"""Experience and labels on disk: written once, believed only when a log says so, read at the speed of memory.

Hops 4, 6 and 7 of the tour. Start with ``episode_store.py``; the layout on disk is in ``docs/data_format.md``.
"""
