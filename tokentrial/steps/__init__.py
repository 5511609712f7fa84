"""What a trial is made of: the corpus, and the stages of every cell, each with all that the house knows of it."""
