"""Functions over samples: intervals, paired comparisons, sample sizes, quantiles, fronts. None knows of runs."""
