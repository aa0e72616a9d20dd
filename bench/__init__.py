"""What measures: ratios against named baselines, side by side in one run."""
