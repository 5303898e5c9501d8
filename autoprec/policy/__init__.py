"""Measurements and a budget → choices. Pure: no torch, no clock, no file."""
