"""Profiles as pandas frames, and frames as table, markdown, csv and json."""
