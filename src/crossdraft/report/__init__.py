"""One self-contained HTML page from JSON records: ``build_report`` in ``report.build``."""
