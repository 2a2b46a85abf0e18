"""The types that `check` is built of: rules, policies, verdicts, baselines."""
