"""The options that say which workloads: of tune, and of the commands that a profile is given to."""

import typer

from autoprec.types import Dtype, Mask, Phase

# Of each size, how a value is written, and what it is where that is all there is to say.
_SIZE_OPTIONS = {
    "--phase": (",".join(Phase), ""),
    "--batch": ("N,…", "Requests at once."),
    "--q-len": ("N,…", ""),
    "--kv-len": ("N,…", "Keys a request, the new tokens included."),
    "--heads": ("Q/KV,…", ""),
    "--head-dim": ("N,…", "Such as 128, or 192/128 where values have another size."),
    "--mask": (",".join(Mask), ""),
    "--input-dtype": (",".join(Dtype), ""),
    "--out-dtype": ("same," + ",".join(Dtype), ""),
}


def size_in(panel: str, name: str, text: str = "") -> typer.models.OptionInfo:
    """The option of a size, in a panel.

    Args:
        name: Such as ``--heads``.
        text: Its help; "" for what every command says of it.
    """
    metavar, always = _SIZE_OPTIONS[name]
    return in_panel(panel, name, metavar, text or always)


def in_panel(panel: str, name: str, metavar: str, text: str) -> typer.models.OptionInfo:
    """An option whose help stands in a panel."""
    option: typer.models.OptionInfo = typer.Option(
        name, metavar=metavar, help=text, rich_help_panel=panel
    )
    return option


def model_in(panel: str, text: str) -> typer.models.OptionInfo:
    """The option of a model, in a panel."""
    option: typer.models.OptionInfo = typer.Option(
        "--model", metavar="PRESET|FILE", autocompletion=presets_that_begin, help=text,
        rich_help_panel=panel,
    )  # fmt: skip
    return option


def presets_that_begin(begun: str) -> list[str]:
    """The presets that begin so, for the shell's completion."""
    from autoprec.geometry import presets

    return [name for name in presets() if name.startswith(begun)]
