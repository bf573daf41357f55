"""The workflow: checks before a run, what each job depends on, and the sizes of the packages."""
