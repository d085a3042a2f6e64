"""Robot drivers, the safety supervisor, cameras and emulators: all that can move an arm, importable without torch and Ray."""
