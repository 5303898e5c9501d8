"""Profiles as pandas frames, and as reports in any format.

A report goes from left to right: ``outcomes`` and ``pairs`` judge what was measured; ``report``,
``comparison``, ``summary``, ``explain``, ``bench``, ``verified``, ``paths``, ``probe`` and
``doctor`` make a ``document`` of it, a command each, of sections that are files of their own;
``figures`` draws its pictures; and ``formats`` makes text of a document: ``table``, ``markdown``,
``csv``, ``json``, ``html``.

For notebooks: ``from autoprec.report.frames import compared, frame``.
"""
