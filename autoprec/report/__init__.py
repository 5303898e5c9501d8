"""Profiles as pandas frames, and as reports in any format.

A report goes from left to right: ``outcomes`` and ``pairs`` judge what was measured; ``summary``,
``details``, ``comparison``, ``explain``, ``paths`` and ``probe`` make a ``document`` of it; and
``formats`` names what makes text of a document: ``table``, ``markdown``, ``csv``, ``json``.

For notebooks: ``from autoprec.report.frames import compared, frame``.
"""
