"""The study of a pair of models, end to end: extract, train, evaluate, check live, predict, judge, report."""
