"""One self-contained HTML page from JSON records: see ``report.assemble``."""
