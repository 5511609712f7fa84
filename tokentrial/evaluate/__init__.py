"""Evaluation: batched greedy completions, scores of plain text, results a cell."""
