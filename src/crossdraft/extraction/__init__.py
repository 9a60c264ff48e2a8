"""Run target and event model over paired clips and keep what both think at every token."""
