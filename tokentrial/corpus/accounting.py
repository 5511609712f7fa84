"""Accounts of a corpus: `bytes.json`, which proves that every arm reads the same bytes, and `meta.json`, what there is.

Bits per byte of two arms may be compared only where both are of the same bytes: whatever an arm makes of a text, its
plain ids and the text that its fact tokens replace must come to the bytes that were read from the source.
"""

from collections.abc import Mapping
from typing import Any

from tokentrial.arms.arm import get_arm
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.shards import TEXT
from tokentrial.corpus.text import SPLITS
from tokentrial.errors import TrialError
from tokentrial.store.files import read_json, sealed, write_json

_SUMS = ("documents", "tokens", "fact_tokens", "plain_tokens", "plain_bytes", "replaced_bytes", "round_trips", "exact")


def account(plan: CorpusPlan) -> None:
    """Write `bytes.json`: of each set and split the bytes as they were read or generated, and of each arm the ids and
    bytes that stand in their place. Raises TrialError where they do not add up."""
    text = read_json(plan.folder / "text.json")
    sets: dict[str, dict[str, Any]] = {TEXT: {s: {k: text[k][s] for k in ("documents", "bytes")} for s in SPLITS}}
    for name in plan.folds:
        sets[name] = read_json(plan.set_folder(name) / "drills.json")
    problems, by_arm = [], dict[str, Any]()
    for name, of_set in sets.items():
        surveyed = read_json(plan.survey_step(name)[0] / "survey.json")["shards"]
        for split, counts in of_set.items():
            of_shards = _total(surveyed, split, ("documents", "bytes"))
            problems += [
                f"{name}, {split}: the {key} of its shards are {of_shards[key]:,}, {counts[key]:,} went in"
                for key in ("documents", "bytes")
                if of_shards[key] != counts[key]
            ]
    for arm in plan.trial.arms:
        keeps_content = get_arm(arm, plan.facts).keeps_content
        by_arm[arm] = {"keeps_content": keeps_content, "sets": {}}
        for name, of_set in sets.items():
            patched = read_json(plan.patch_step(arm, name)[0] / "patch.json")["shards"]
            by_arm[arm]["sets"][name] = {split: _account(patched, split) for split in of_set}
            for split, counts in of_set.items():
                wrong = _unbalanced(by_arm[arm]["sets"][name][split], counts)
                problems += [f"{arm}, {name}, {split}: {words}" for words in wrong]
    what = "bytes and documents as they were read or generated; ids of each arm, and the bytes that they stand for"
    write_json(
        plan.folder / "bytes.json",
        sealed(
            {"what": what, "source": sets, "decoded": text.get("round_trips"), "arms": by_arm, "problems": problems}
        ),
    )
    if problems:
        raise TrialError(
            f"{plan.folder / 'bytes.json'}: the bytes do not add up, the trial does not start:\n  "
            + "\n  ".join(problems[:10])
            + f"\ndelete {plan.folder} and run the same command again"
        )


def _account(shards: Mapping[str, Mapping[str, Any]], split: str) -> dict[str, Any]:
    """What an arm's shards of one split hold in all. `eos` are the special tokens beside those of facts."""
    total = _total(shards, split, _SUMS)
    size = total["plain_bytes"] + total["replaced_bytes"]
    return total | {"eos": total["documents"], "bytes": size, "bytes_a_token": size / max(1, total["tokens"])}


def _unbalanced(account: Mapping[str, Any], source: Mapping[str, int]) -> list[str]:
    """What of an arm's account is not what the source says, in words."""
    ids = account["eos"] + account["fact_tokens"] + account["plain_tokens"]
    compared = (
        ("documents", account["documents"], source["documents"]),
        ("bytes, with those that tokens replace", account["bytes"], source["bytes"]),
        ("tokens (eos, fact and plain)", ids, account["tokens"]),
    )
    return [f"{count:,} {what}, expected {expected:,}" for what, count, expected in compared if count != expected]


def _total(shards: Mapping[str, Mapping[str, Any]], split: str, keys: tuple[str, ...]) -> dict[str, int]:
    of_split = [counts for stem, counts in shards.items() if f"_{split}_" in stem]
    return {key: sum(counts[key] for counts in of_split) for key in keys}


def write_meta(plan: CorpusPlan) -> None:
    """`meta.json`: names of tokens that stood literally in the source, and what each arm wrote and changed."""
    surveyed = read_json(plan.survey_step(TEXT)[0] / "survey.json")["shards"].values()
    literal_token_names = sum(counts["literal_token_names"] for counts in surveyed)
    by_arm: dict[str, Any] = {}
    for arm in plan.trial.arms:
        records = {name: read_json(plan.patch_step(arm, name)[0] / "patch.json") for name in plan.sets}
        shards = [counts for record in records.values() for counts in record["shards"].values()]
        by_arm[arm] = {
            "num_documents": sum(counts["documents"] for counts in shards),
            "changed_documents": sum(counts["changed"] for counts in shards),
            "fact_tokens": sum(counts["sites"] for counts in shards),
            "sites_in_context": records[TEXT]["sites_in_context"],
        }
    write_json(
        plan.folder / "meta.json",
        sealed({"text": {"literal_token_names": literal_token_names}, "arms": by_arm}),
    )
