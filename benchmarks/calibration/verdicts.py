"""What `gradtool check` says about training runs, healthy and sick, seed by seed.

    python -m benchmarks.calibration.verdicts --dir DIR [--baseline-seed 11] [--seeds 12 13 ...]

trains the runs of `sick_runs.py` that are not in DIR yet, saves a baseline of the healthy runs of
one seed, and checks every run of the others with the default rules. Thresholds were set on seeds
1 to 6; those that are reported by default were not looked at before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import gradtool
from benchmarks.calibration.architectures import SICK_FROM as TRIAL_SICK_FROM
from benchmarks.calibration.architectures import TRIALS, train_trial
from benchmarks.calibration.sick_runs import SICK_FROM, STEPS, VARIANTS, train_all
from benchmarks.harness.tables import table
from gradtool import CheckOutcome, Finding, Verdict
from gradtool.shortening import shortened

LIKE = {"healthy-f16": "healthy-f16", "f16-unscaled": "healthy-f16"}
"""Whose healthy runs a variant is compared with, besides those of an untied model."""

CULPRITS = {
    "layer-x1e4": "'layers.1' before it",
    "head-cut": "embed.weight",
    "head-cut-untied": "head.weight",
}
"""How a finding names what is at fault, where one part of the model is."""


def runs_of(directory: Path, variant: str, seed: int) -> list[str]:
    """The dumps of one run."""
    return [str(path) for path in sorted((directory / variant / f"seed-{seed}").iterdir())]


def healthy_like(variant: str) -> str:
    """The healthy variant of the same model in the same precision."""
    return "healthy-untied" if variant.endswith("untied") else LIKE.get(variant, "healthy")


def checked(directory: Path, variant: str, seed: int, baseline_seed: int) -> CheckOutcome:
    """The verdict on one run, compared with the healthy run of another seed."""
    like = healthy_like(variant)
    baseline = directory / f"{like}-{baseline_seed}.baseline.json"
    if not baseline.exists():
        gradtool.save_baseline(runs_of(directory, like, baseline_seed), baseline)
    return gradtool.check(*runs_of(directory, variant, seed), baseline=baseline)


def row(variant: str, seed: int, outcome: CheckOutcome) -> list[str]:
    """A line of the table: which steps failed, by which rules, in which tensors."""
    failed = [verdict for verdict in outcome.verdicts if verdict.failed]
    steps = [str(verdict.step) for verdict in failed]
    first = [one for one in failed[0].findings if one.severity == "error"] if failed else []
    return [
        variant,
        str(seed),
        f"{len(failed)} of {len(outcome.verdicts)}",
        steps[0] if steps else "-",
        culprit(variant, failed),
        ", ".join(sorted({one.code for verdict in failed for one in verdict.findings})) or "-",
        named(first),
    ]


def culprit(variant: str, failed: list[Verdict]) -> str:
    """In how many of the failed dumps the part at fault is named."""
    name = CULPRITS.get(variant)
    if name is None:
        return "-"
    hits = [any(name in f"{one.tensor} {one.message}" for one in v.findings) for v in failed]
    return f"{sum(hits)} of {len(hits)}"


def named(findings: Iterable[Finding]) -> str:
    """The first tensor that each rule names, the gravest rule first."""
    names: dict[str, str] = {}
    for finding in findings:
        names.setdefault(finding.code, finding.tensor or finding.pattern or "(all)")
    return ", ".join(f"{code} {name}" for code, name in names.items()) or "-"


def is_right(variant: str, outcome: CheckOutcome) -> bool:
    """Whether each dump with a fault failed, and no other, and what is at fault is named."""
    found = VARIANTS[variant]
    for verdict in outcome.verdicts:
        late = found.fault is not None and (verdict.step or 0) < SICK_FROM
        if verdict.failed != (not variant.startswith("healthy") and not late):
            return False
    failed = [verdict for verdict in outcome.verdicts if verdict.failed]
    return culprit(variant, failed) in ("-", f"{len(failed)} of {len(failed)}")


def trial_row(directory: Path, name: str, seed: int) -> tuple[list[str], bool]:
    """A line about a run of another architecture, judged without a baseline; whether it is right.

    It is where the dumps before the fault have no errors, and the one with it has exactly one, by
    the rule and with the words that say what is wrong.
    """
    trial = TRIALS[name]
    outcome = gradtool.check(*runs_of(directory, name, seed))
    sick = [one for one in outcome.verdicts if trial.code and (one.step or 0) >= TRIAL_SICK_FROM]
    healthy = [one for one in outcome.verdicts if one not in sick]
    false = sum(one.failed for one in healthy)
    warned = sorted({found.code for one in healthy for found in one.findings})
    found = [one for verdict in sick for one in verdict.findings]
    told = [f"{one.pattern or one.tensor or 'all'}: {one.message}" for one in found]
    right = not false and [one.code for one in found] == ([trial.code] if trial.code else [])
    right = right and all(trial.where in text for text in told)
    return [
        name,
        str(seed),
        f"{false} of {len(healthy)}",
        ", ".join(warned) or "-",
        ", ".join(f"{one.severity} {one.code}" for one in found) or "-",
        shortened(told[0], 100) if told else "-",
    ], right


def judge_trials(directory: Path, seeds: list[int]) -> int:
    """Print the table of the other architectures; how many of its runs are judged wrong."""
    jobs = [(name, seed) for name in TRIALS for seed in seeds]
    for name, seed in jobs:
        if not (directory / name / f"seed-{seed}").exists():
            print(train_trial(directory, name, seed), flush=True)
    rows, rights = zip(*(trial_row(directory, *job) for job in jobs), strict=True)
    heads = ["trial", "seed", "healthy failed", "warned of", "found in the sick", "and told as"]
    print(table(heads, rows))
    print(f"{sum(rights)} of {len(jobs)} trials: one finding names each fault, and no other error")
    return len(jobs) - sum(rights)


def main() -> int:
    """Exit status 1 where a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dir", type=Path, required=True, help="for the dumps")
    parser.add_argument("--baseline-seed", type=int, default=11, help="(11)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(12, 21)), help="(12-20)")
    options = parser.parse_args()
    for variant in VARIANTS:
        seeds = [options.baseline_seed, *options.seeds]
        train_all(
            options.dir, [variant], [s for s in seeds if not _is_there(options.dir, variant, s)]
        )
    rows, wrong = [], 0
    for variant in VARIANTS:
        for seed in options.seeds:
            outcome = checked(options.dir, variant, seed, options.baseline_seed)
            wrong += not is_right(variant, outcome)
            rows.append(row(variant, seed, outcome))
    heads = [
        "variant",
        "seed",
        "dumps failed",
        "from step",
        "fault named",
        "rules",
        "in the first of them",
    ]
    print(
        f"baselines: healthy runs of seed {options.baseline_seed}, all {len(rows)} runs of others"
    )
    print(table(heads, rows))
    said = "each dump with a fault failed and names it, and no other failed"
    print(f"{len(rows) - wrong} of {len(rows)} runs: {said}")
    wrong += judge_trials(options.dir, options.seeds)
    return 1 if wrong else 0


def _is_there(directory: Path, variant: str, seed: int) -> bool:
    return (directory / variant / f"seed-{seed}" / f"step-{STEPS:04}.safetensors").exists()


if __name__ == "__main__":
    sys.exit(main())
