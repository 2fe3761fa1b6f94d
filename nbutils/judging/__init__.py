"""Judging answers: prompts, judges, requests in both orders, replies read, and the records of it all.

`replies` reads scores and verdicts, `pairs` asks in both orders, `judges` lists who can judge, `records` reads
anybody's judgments; `mt_bench`, `alpaca_eval`, `rate` and `human` are the other ways to judge; `command` serves the
commands.
"""
