"""Executors run calls in workers that live on. They know no stage: run hands them callables workers can import."""
