"""Faults under load: what clients notice when parts of a running service are killed, one after the other."""
