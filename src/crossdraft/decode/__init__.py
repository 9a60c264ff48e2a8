"""The loop, the window, text as it comes, the audit."""
