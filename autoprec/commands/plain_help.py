"""Help in a narrow terminal: a plain list, where Typer's tables would cut names of options."""

import shutil
from typing import Any

from typer.core import TyperCommand

_COLUMNS = 112  # with as many, nothing in the tables is cut


class PlainHelp(TyperCommand):
    """A command with long options: its help is a table only where there is room for one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, or have Typer print its tables."""
        if shutil.get_terminal_size().columns >= _COLUMNS:
            super().format_help(ctx, formatter)
            return
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the headings that the tables have."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record:
                heading = getattr(option, "rich_help_panel", None) or "Options"
                panels.setdefault(heading, []).append(record)
        for heading, records in panels.items():
            with formatter.section(heading):
                formatter.write_dl(records)
