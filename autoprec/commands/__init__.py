"""The command line, which nothing but ``autoprec.cli`` imports.

``app`` reads a command line. The module with the command's name (``tune``, ``bench`` …) does it,
and is imported only then, so that ``--help`` needs no torch. The others are what these share, or
consist of.
"""
