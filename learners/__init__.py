"""Learners: experience and labels in, better policies and value models out; and the RECAP loop that calls everything."""
