"""Cameras: a grab thread each that keeps the newest frame, and a set of them that no dead one holds up."""
