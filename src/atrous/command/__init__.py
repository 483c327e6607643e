"""The verbs of the command line that are not a run: one file each, named as the verb."""
