"""Processes that act: they run policies or experts in environments and write episodes."""
