"""Judging answers: prompts, judges, requests in both orders, replies read, and the records of it all.

`replies` reads scores and verdicts, `pairs` asks in both orders, `judges` lists who can judge, `answers` and `records`
read anybody's answers and judgments, `logs` those of other tools; `mt_bench`, `alpaca_eval`, `rate` and `human` are the
other ways to judge; `command` serves the commands.
"""
