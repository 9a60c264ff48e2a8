"""The league put together: the table of methods, the prompts, and one run over both."""
