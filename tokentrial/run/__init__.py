"""A run: what of a trial is pending, in workers, into its run folder; and a run folder, opened again."""
