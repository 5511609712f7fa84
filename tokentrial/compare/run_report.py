"""A run's own report, the one source of verdicts: what it found of the contrasts that its trial declared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokentrial.compare.files import file_error, validate
from tokentrial.compare.system import EXPLORATORY, SystemContrast
from tokentrial.report.comparison import REPORT
from tokentrial.report.formats import one_line
from tokentrial.report.results import mean_of
from tokentrial.store.files import is_as_sealed
from tokentrial.store.rows import read_json_file

# by outcome and arms; a is the treatment's arm, b the control
Reported = dict[tuple[str, frozenset[str]], SystemContrast]
# fields that a report's contrast and a contrast of systems share
_SHARED = ("outcome", "difference", "interval", "alpha", "p", "p_adjusted", "test", "detectable")


def read_report(run: Path) -> Reported:
    """The contrasts of a run's own report that were measured; none where it has no report."""
    path = run / REPORT
    if not path.exists():
        return {}
    report = read_json_file(path)
    if not is_as_sealed(report):
        raise file_error(
            path, f"its content does not match its sha256; delete it and make it again with `tokentrial report {run}`"
        )
    try:
        listed = report["contrasts"] if "contrasts" in report else [*_of_release_0_1(report)]
        cited = [
            _cited(c, report["outcomes"][c["outcome"]]["floors"])
            for c in listed
            if c["difference"] is not None and not c["role"].startswith("again with")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise file_error(path, f"not a report ({error!r}); make it again with `tokentrial report {run}`") from None
    contrasts = [validate(path, SystemContrast, c, f"contrast on {c['outcome']}: ") for c in cited]
    # what was declared stands first, and goes before the same pair the other way round, which is exploratory
    return {(c.outcome, frozenset((c.a, c.b))): c for c in reversed(contrasts)}


def _cited(c: dict[str, Any], floors: Any) -> dict[str, Any]:
    """A report's contrast, in `statistics.contrast.Contrast`'s fields, as fields of a contrast of systems."""
    declared = c["role"] in ("primary", "secondary")
    fields = {name: c[name] for name in _SHARED} | {"a": c["treatment"], "b": c["control"], "floors": floors}
    fields |= {"value_a": c["treatment_mean"], "value_b": c["control_mean"], "n_a": len(c["seeds"])}
    note = "; ".join(filter(None, ("as the run's own report says", "" if declared else EXPLORATORY, c["note"])))
    fields |= {"n_b": len(c["seeds"]), "note": note, "verdict": c["verdict"] if declared else None}
    return {name: one_line(value) if isinstance(value, str) else value for name, value in fields.items()}


def _of_release_0_1(report: Any) -> Iterator[dict[str, Any]]:
    """The contrasts of a report of release 0.1, which stood below their outcomes, without seeds and means, at 95 %."""
    for outcome, results in report["outcomes"].items():
        for pair, old in results["contrasts"].items():
            treatment, control = pair.split(" - ")
            scores = zip(report["seeds"], *(results["per_seed"][arm] for arm in (treatment, control)), strict=True)
            # a seed that was added after a look did not count
            counted = [s for s in scores if s[0] in report["declared"]["seeds"] and None not in s]
            if not counted:
                continue
            seeds, x, y = zip(*counted, strict=True)
            role = "secondary" if old["verdict"] else "exploratory"  # only what was declared had one
            today = {"role": role, "outcome": outcome, "treatment": treatment, "control": control, "seeds": seeds}
            today |= {"treatment_mean": mean_of(x), "control_mean": mean_of(y), "alpha": 0.05}
            yield old | today | {"interval": old["ci95"], "p_adjusted": old["p_holm"], "detectable": old["mde80"]}
