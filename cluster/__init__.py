"""Ray wiring: starting Ray, where parts are placed, and pools of rollout workers that survive a death."""
