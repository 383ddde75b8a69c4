"""The command line: one file a verb, each loading what it needs only when it is called."""
