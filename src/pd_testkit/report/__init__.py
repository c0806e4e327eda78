"""What a run found out about a target: the model, the terminal's table, JSON and HTML."""
