"""What a trial is made of: the corpus, and the stages of every cell, each described in one file of its own."""
