"""The vocabulary of `check`: rules, policies, verdicts, baselines."""
