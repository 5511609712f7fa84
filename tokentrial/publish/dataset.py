"""The card of a run's table of results, as a data set of the Hugging Face Hub has it."""

import re

import yaml

from tokentrial.report.contrast_table import Report
from tokentrial.report.formats import one_line
from tokentrial.report.narrative import declaration, verdict_sentence
from tokentrial.report.results import RESULTS

CARD = "README.md"


def dataset_card(report: Report) -> bytes:
    """The verdict, what was declared, and the columns of `results.parquet`, which lies beside the card."""
    name = one_line(report["trial"])
    head = {
        "pretty_name": f"Results of the trial {name}",
        "tags": ["tokentrial"],
        "configs": [{"config_name": "default", "data_files": RESULTS}],
    }
    return f"""---
{yaml.safe_dump(head, sort_keys=False).rstrip()}
---
# Results of the trial {name}

**{verdict_sentence(report)}**

{" ".join(_without_folders(sentence) for sentence in declaration(report))}

`{RESULTS}` has one row per `value` of a `metric`, for an `arm` and a `seed` (the unit of replication) after a
`stage`, on a `subset` of a `task`. Rows without `item` and `fact` are the outcomes that a verdict may be declared of;
those with a `fact` alone are means over the fact's orders, those with an `item` single answers.
""".encode()


def _without_folders(sentence: str) -> str:
    """A sentence that may name a file of this machine, with the file's name alone."""
    return re.sub(r"(?<![\w.])/(?:[^\s/]+/)+", "", sentence)
