"""Files that are mutated along their structure, judged beside the loaders they are meant for."""
