"""What user code holds: a profile loaded for this machine, and the calls it drives."""
