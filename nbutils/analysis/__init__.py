"""Statistics of judgments, without a word to any model: verdicts, intervals, and length told apart from quality.

`verdicts` is the rule and its counts, `items` the judged prompts, `length_control` the fit at equal length,
`comparison` the whole analysis of a comparison and `findings` its verdict, `pooled` one model of all comparisons and
`standings` what it says, `intervals` every interval and the planner, `agreement` judges among themselves,
`answer_facts` what needs no judge, `calibration` whether it can be trusted, `leaderboards` public results.
"""
