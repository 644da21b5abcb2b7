"""What a score from few rows is worth: splits, intervals, reports of classes and a verdict, without any model."""
