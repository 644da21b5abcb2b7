"""Floor 3: the command line, one file a command. Parses, calls the floors below, prints."""
