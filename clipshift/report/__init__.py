"""The report: charts, sections, one HTML page, and what the terminal shows."""
