"""Records, specifications and errors that every part speaks: numpy and the standard library only."""
