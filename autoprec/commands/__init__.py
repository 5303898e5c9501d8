"""The command line: a module for each command, and beside them what several share."""
