"""Answering test prompts: what is asked, by which backend, in which slots, and the answers on disk.

`answers` asks and keeps, `backends` are who answers; of the one in this process `fitting` says what fits, `slots`
decodes, and `cache` holds the keys and values.
"""
