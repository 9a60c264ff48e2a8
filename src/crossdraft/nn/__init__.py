"""The text decoder that every model of the package runs on, and the engine that runs it at inference."""
