"""The charts of pages, files and notebooks, in Altair: one specification for all of them.

Each ``draw_…`` takes plain tables of a run and returns a chart. Where a table has several
severities, the chart has a parameter ``severity`` that chooses one of them.
"""
