"""The one door to language models: requests, replies, and the ledger in which every paid answer is kept.

`client` asks and remembers; behind it stand an endpoint (`endpoint`, with `protocol`, and `limits` that
say how fast and at what cost), its Batch API (`batch`) or a model on this machine (`local`).
"""
