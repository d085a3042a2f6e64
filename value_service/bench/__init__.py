"""Suboptimal-Value-Bench in simulation: episodes with known progress, models trained alike, and how far each can be trusted.

Beside hop 5 of the tour. An entry point (docs/adr/0023): it may import anything, nothing imports it.
"""
