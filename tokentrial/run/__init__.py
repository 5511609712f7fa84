"""A run, which does a trial's pending stages in workers; and a run folder, opened again."""
