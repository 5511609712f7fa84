"""What a person looks at: texts, completions, a run at work."""
