"""``python -m autoprec`` is the command ``autoprec``."""

from autoprec.cli import main

main()
