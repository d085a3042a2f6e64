"""Emulated controllers: they speak the vendor's protocol, move in real time, and misbehave on demand."""
