"""The command line: it turns words into calls of the other rooms, and their errors into exit codes."""
