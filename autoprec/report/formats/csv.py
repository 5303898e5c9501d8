"""A report's records as comma-separated values."""

from autoprec.report.document import Document


def render(document: Document) -> str:
    """A line of column names and a line for each record; what is missing is empty."""
    text: str = document.frame.to_csv(index=False, lineterminator="\n")
    return text
