"""For a person to look at: texts as arms see them, completions, the progress of a run."""
