"""Recorded profiles of real machines."""
