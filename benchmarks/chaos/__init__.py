"""What breaks, on purpose: one fault a run of the real main job, and what must hold afterwards, checked from outside."""
